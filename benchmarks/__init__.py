"""What the data path, the training step and the start cost, beside other libraries."""
