"""Parts on disk: received, resumed, verified, evicted, and read tensor by tensor."""
