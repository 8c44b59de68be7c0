"""Studies of networks over sequences."""
