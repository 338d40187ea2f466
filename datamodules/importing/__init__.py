"""Cohorts from DICOM, BIDS, MedMNIST, or made up."""
