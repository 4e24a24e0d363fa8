"""Comparison, records, plots -> the files of a versioned report."""
