"""Sequences on which recurrent and convolutional networks are compared."""
