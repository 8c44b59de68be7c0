"""Scores of forecasts, and the classical forecasts that they are compared with."""
