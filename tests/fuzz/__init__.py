"""Inputs that nobody meant: made up, bent, cut, and what has to become of them."""
