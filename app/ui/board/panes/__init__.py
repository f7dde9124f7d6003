"""What stands around the scene: library and shelf, the plan bar, deploying, the inspector."""
