"""Loops in C: one file each, compiled when first needed; see docs/kernels.md."""
