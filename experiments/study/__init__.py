"""What the commands that train a table share: its rows, its cells and its files."""
