"""What the data path, the training step and the start cost, next to other libraries."""
