"""Parts that networks are made of, each chosen by a name."""
