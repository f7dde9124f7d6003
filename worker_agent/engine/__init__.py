"""A stage at work: its memory, its passes, which sequences go next, the ring, tokens."""
