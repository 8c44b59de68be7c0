"""Methods that the two families are compared with."""
