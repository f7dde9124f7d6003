"""A transformers model taken apart: where it may be cut, one slice of it, its weights and their layouts."""
