"""The command `launch`."""
