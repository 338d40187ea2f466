"""Many settings: their file, their table, and the workers that share them."""
