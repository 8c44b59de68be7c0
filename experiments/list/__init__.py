"""Lists everything that a flag can name, and shows a config with the meaning of each setting."""
