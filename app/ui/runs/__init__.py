"""The screen Runs: every request, job and deployment, what came of it, and where its time went."""
