"""Tables of models of text: positions, decoding."""
