"""Pure functions on tables and arrays: metrics, pictures, report."""
