"""Loops in C: one file each, compiled when first needed; what torch has no fast equal of."""
