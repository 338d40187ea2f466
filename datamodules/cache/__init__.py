"""Rows that are expensive to make, kept on disk or on the device."""
