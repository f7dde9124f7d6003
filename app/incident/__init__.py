"""Incident bundles: all that is known of one request in one file, and running it again to compare token by token."""
