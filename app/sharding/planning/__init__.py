"""The planner: which nodes take which layers, in which order, for what somebody aims at."""
