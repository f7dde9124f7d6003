"""Child processes: how they are started, and the work that is done in them."""
