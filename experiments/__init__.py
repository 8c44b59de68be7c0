"""Commands: parse flags, build, call."""
