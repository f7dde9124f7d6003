"""What makes the tiny models of these tests comes as agents have it, which takes half as long as the whole."""

from worker_agent.model.imports import import_transformers

import_transformers()
