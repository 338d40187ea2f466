"""The loop over folds, and what it needs before and after each."""
