"""Layouts of matrices that compute the same with fewer or faster kernels."""
