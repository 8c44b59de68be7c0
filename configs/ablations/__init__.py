"""Published tables, and our own, as data."""
