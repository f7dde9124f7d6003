"""The control door: how commands reach the controller that is running on this machine."""
