"""Matrices whose weights stay in blocks, as GGUF files store them: read, made, multiplied."""
