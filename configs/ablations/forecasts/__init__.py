"""Studies of forecasts."""
