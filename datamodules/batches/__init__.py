"""Which scans a batch has, by whom they are loaded, and their copies."""
