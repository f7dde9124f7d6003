"""The window. The only package that imports Qt; it drives the controller through `Bridge` and never blocks."""
