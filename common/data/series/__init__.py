"""Time series in files: their columns, times and values."""
