"""Forecasts of time series: drawn, scored by others, and shown as tables and pictures."""
