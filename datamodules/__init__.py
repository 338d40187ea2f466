"""From a cohort table to batches: see scans.py for whole scans, patches.py for patches."""
