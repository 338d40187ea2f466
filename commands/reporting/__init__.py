"""What is written once all folds are predicted, and read back later."""
