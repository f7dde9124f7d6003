"""Sending a cut model to an agent and loading stages of it, as a controller does."""

from __future__ import annotations

from typing import Any

from tests.worker_agent.agent_process import Client
from tests.worker_agent.ring import CutModel, load_message
from worker_agent.wire.messages import (
    CHUNK_BYTES,
    Chunk,
    ChunkAck,
    ControlMessage,
    Have,
    Offer,
    encode_parts,
)


def send_parts(client: Client, model: CutModel) -> int:
    """Send the parts that the agent lacks; how many chunks that took."""
    digests = tuple(part.digest for part in model.parts)
    sizes = tuple(part.nbytes for part in model.parts)
    have = client.ask(lambda call: Offer(call=call, digests=digests, sizes=sizes))
    assert isinstance(have, Have), have
    sent = 0
    for digest, size, offset in zip(digests, sizes, have.held, strict=True):
        content = (model.folder / digest).read_bytes()
        while offset < size:
            chunk = content[offset : offset + CHUNK_BYTES]
            ack = client.ask(lambda call: Chunk(call=call, digest=digest, offset=offset, total=size), chunk)  # noqa: B023  # called at once
            assert isinstance(ack, ChunkAck), ack
            offset, sent = ack.received, sent + 1
    return sent


def load(
    client: Client, model: CutModel, deployment: str, stage: int, layers: tuple[int, int], **changes: Any
) -> ControlMessage:
    """Load a stage; the final answer."""
    start, end = layers
    settings = {"call": client.next_call(), "deployment": deployment, "kv_tokens": 256, **changes}
    message = load_message(model, start, end, stage, 2, **settings)
    client.send(message, model.config, encode_parts(model.parts_for(start, end)))
    return client.answer_to(message.call, seconds=60)
