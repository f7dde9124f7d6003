"""transformers as agents have it: whoever imports this before anything that needs it has it in half the time."""

from worker_agent.model.imports import import_transformers

import_transformers()
