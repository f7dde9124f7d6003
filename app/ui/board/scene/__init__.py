"""What is drawn in the middle of the board, and the mouse, keys and menus that work on it."""
