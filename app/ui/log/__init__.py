"""The screen Log: what controller and agents report, and the agents' own logs."""
