"""Devices: what they can do, and work on several of them."""
