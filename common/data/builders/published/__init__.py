"""Published sets of time series, with their horizons and splits."""
