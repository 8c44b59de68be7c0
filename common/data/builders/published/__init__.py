"""Published sets: time series with their horizons and splits, and texts."""
