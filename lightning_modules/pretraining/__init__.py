"""How an encoder learns from patches without labels."""
