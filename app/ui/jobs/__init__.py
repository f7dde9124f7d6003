"""Long work that the user watches: cutting models, adding them, deployments; the queue, its dock and its dialogs."""
