"""What both families need. Imports neither of them."""
