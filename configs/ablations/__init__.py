"""Studies as data: published tables, and our own."""
