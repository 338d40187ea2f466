"""What can be wrong with a cohort."""
