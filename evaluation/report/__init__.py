"""Pages, tables, pictures and sentences."""
