"""The folder of a run, its configuration, and where an interrupted fold continues."""
