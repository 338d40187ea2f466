"""The folds of a run as one model for new scans."""
