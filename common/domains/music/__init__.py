"""Music: continues the beginning of a piece, and shows piano rolls or writes MIDI files."""
