"""The board: the model library, the shards of a draft, the nodes that take them, and deploying."""
