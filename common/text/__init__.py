"""Texts as they are read: where they stop, and how they are shown while they are drawn."""
