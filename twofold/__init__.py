"""The command `twofold`: one door to all commands in `experiments`."""
