"""Before the first step of a run: its checks, its folder and its summary."""
