"""What a model's layers take of a node's memory, loaded for given uses. Pure."""

from __future__ import annotations

from itertools import accumulate

from app.errors import BadInput, PlacementError
from app.models.description import COMPUTE_ITEM_BYTES, ModelDescription
from app.serving import KV_DTYPES, MAX_WAIT_SECONDS, QUANTIZE, RECOVERIES, Serving
from app.sharding.plan import stage_memory
from worker_agent.wire.messages.parts import RECORDED_LAYER_BYTES

JOURNAL_BASE = 1_000_000
"""What the steps themselves take, apart from the hidden states."""
WORKING_BYTES = 40_000_000
"""What an agent's process takes besides once it runs stages: a step's activations, code that is read when it is first
needed, and what the allocator keeps of freed memory for the next step (9 to 95 MB, measured over 41 agents). Since more
of oneDNN's programs stay, some 20 MB come to it in bfloat16 after prompts of many lengths."""
MAX_SEQUENCES = 256
"""Sequences that a deployment runs at once, at most."""
TOKENS_WITH_STATE = 1024
"""Where sequences keep states, one for so many KV tokens runs at once: each state may be as large as thousands of
tokens' keys and values, and all of them are set aside."""


def sequences_at_once(description: ModelDescription, serving: Serving) -> int:
    """How many sequences a deployment runs at once; more wait."""
    if not description.has_states:
        return MAX_SEQUENCES
    return min(MAX_SEQUENCES, max(1, serving.kv_tokens // TOKENS_WITH_STATE))


def kept_for(description: ModelDescription, serving: Serving) -> str:
    """In words, what the memory for keys and values suffices for."""
    tokens = f"{serving.kv_tokens:,} tokens"
    if not description.has_states:
        return tokens
    count = sequences_at_once(description, serving)
    return f"{tokens} and the states of {count} sequence{'s' * (count > 1)}"


def journal_bytes(description: ModelDescription, serving: Serving) -> int:
    """What each stage may keep of what it sent: the hidden states of twice as many tokens as its pool holds.

    Twice, since what a sequence shared a step with stays as long as it does.
    """
    if serving.recovery != "exact":
        return 0
    return 2 * serving.kv_tokens * description.hidden_size * COMPUTE_ITEM_BYTES[serving.dtype] + JOURNAL_BASE


def working_bytes(layers: int, *, on_gpu: bool = False) -> int:
    """What a process takes of main memory besides weights, keys and values while it runs so many layers."""
    return 0 if on_gpu or not layers else WORKING_BYTES + layers * RECORDED_LAYER_BYTES


class StageSizes:
    """Bytes that layers [start, end) take. Made once for a model and its serving: every mouse move asks."""

    def __init__(self, description: ModelDescription, serving: Serving) -> None:
        self._weights = stage_memory(description, serving)
        self.journal = journal_bytes(description, serving)
        """What a stage may keep of what it sent."""
        sequences = sequences_at_once(description, serving)
        each = (
            description.kv_bytes_per_token(serving.dtype, layer, layer + 1, kv_dtype=serving.kv_dtype)
            * serving.kv_tokens
            + description.state_bytes_per_sequence(serving.dtype, layer, layer + 1) * sequences
            for layer in range(description.num_layers)
        )
        self._kv = [0, *accumulate(each)]

    def weights(self, start: int, end: int) -> int:
        """Once loaded."""
        return self._weights(start, end)

    def kv(self, start: int, end: int) -> int:
        """Keys and values, and the states of as many sequences as run at once."""
        return self._kv[end] - self._kv[start]

    def memory(self, start: int, end: int) -> int:
        return self.weights(start, end) + self.kv(start, end) + self.journal


def check_serving(description: ModelDescription, serving: Serving) -> None:
    """Raise BadInput for what no model can be loaded for, PlacementError for what this one cannot."""
    if serving.dtype not in COMPUTE_ITEM_BYTES:
        raise BadInput(f"'{serving.dtype}' is no dtype to compute with.", f"Take {', '.join(COMPUTE_ITEM_BYTES)}.")
    if serving.quantize not in QUANTIZE:
        raise BadInput(f"'{serving.quantize}' is nothing to quantize to.", f"Take {', '.join(QUANTIZE)}.")
    if serving.kv_dtype not in KV_DTYPES:
        raise BadInput(f"Keys and values cannot be kept in '{serving.kv_dtype}'.", f"Take {', '.join(KV_DTYPES)}.")
    if not 0 <= serving.wait_seconds <= MAX_WAIT_SECONDS:
        raise BadInput(f"Answers wait for a lost node for 0 to {MAX_WAIT_SECONDS:,} seconds.")
    if serving.recovery not in RECOVERIES:
        raise BadInput(f"Answers cannot go on in the way '{serving.recovery}'.", f"Take {', '.join(RECOVERIES)}.")
    if serving.context < 1 or serving.kv_tokens < 1:
        raise BadInput("Context and KV tokens must be at least 1.")
    if serving.context > description.max_context:
        raise PlacementError(
            f"'{description.name}' reads at most {description.max_context:,} tokens, not {serving.context:,}.",
            "Take a smaller context. Where the model's card tells how to extend it (YaRN for one), put that into its "
            "config.json and add the model anew.",
        )
