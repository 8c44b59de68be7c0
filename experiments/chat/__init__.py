"""The command `twofold chat`."""
