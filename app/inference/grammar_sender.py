"""Makes grammars ready where tokens are chosen, and sends the tokenizer that they need, once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from app.cluster.agent_link import AgentLink
from app.errors import NodeError, RequestError
from worker_agent.wire.messages import MAX_FRAME_BYTES, MAX_PAYLOAD_FRAMES, Constrain, Constraint

GRAMMAR_SECONDS = 60.0
TOKENIZER_SECONDS = 300.0
"""For the tokenizer to arrive, over a slow network, and to be read there."""


class GrammarSender:
    """For one deployment. Belongs to the controller's loop."""

    def __init__(self, deployment: str) -> None:
        self._deployment = deployment
        self._sending = asyncio.Lock()

    async def make_ready(
        self, link: AgentLink, constraint: Constraint, eos: tuple[int, ...], tokenizer: Callable[[], bytes] | None
    ) -> None:
        """Make a grammar ready where tokens are chosen; the tokenizer is sent along only when it is not there yet."""
        message = Constrain(call=0, deployment=self._deployment, constraint=constraint, eos=eos)
        try:
            if await _is_ready(link, message, wanted=tokenizer is None):
                return
            assert tokenizer is not None
            async with self._sending:  # of requests that come at once, one sends it
                if await _is_ready(link, message):
                    return
                data = await asyncio.to_thread(tokenizer)
                pieces = tuple(data[at : at + MAX_FRAME_BYTES] for at in range(0, len(data), MAX_FRAME_BYTES))
                if len(pieces) > MAX_PAYLOAD_FRAMES:
                    raise NodeError(f"the tokenizer is too large, {len(data)} bytes.", kind="no_tokenizer")
                await link.call(message, pieces, seconds=TOKENIZER_SECONDS)
        except NodeError as error:
            if error.kind not in ("constraint", "no_tokenizer"):
                raise
            raise RequestError(
                f"The answer cannot be held to the wanted form: {error.message}", "Send the request without it."
            ) from error


async def _is_ready(link: AgentLink, message: Constrain, *, wanted: bool = False) -> bool:
    """Whether the last stage has made the grammar ready; not, if it lacks the tokenizer: an error if `wanted`."""
    try:
        await link.call(message, seconds=GRAMMAR_SECONDS)
    except NodeError as error:
        if error.kind != "no_tokenizer" or wanted:
            raise
        return False
    return True
