"""What a message may say. That any bytes are read or refused is searched in `tests/fuzz`."""

from __future__ import annotations

import pytest

from worker_agent.wire.errors import WireError
from worker_agent.wire.messages import (
    AdmitProbe,
    Chunk,
    Message,
    Part,
    PartTensor,
    Reveal,
    Unload,
    decode,
    decode_parts,
    encode,
    encode_parts,
)


@pytest.mark.parametrize(
    "message",
    [
        Reveal(call=1, nonce="0" * 63 + "\n"),
        Chunk(call=1, digest="0" * 63 + "\n", offset=0, total=1),
        Unload(call=1, deployment="abc\n", stage=0),
        AdmitProbe(call=1, key="k" * 39 + "\n", seconds=1.0, total_bytes=1),
        AdmitProbe(call=1, key="\u00e9" * 40, seconds=1.0, total_bytes=1),
        AdmitProbe(call=1, key="k" * 39 + " ", seconds=1.0, total_bytes=1),
    ],
    ids=lambda message: type(message).__name__,
)
def test_names_digests_nonces_and_keys_are_of_their_letters_to_the_end(message: Message) -> None:
    with pytest.raises(WireError, match="malformed"):
        decode(encode(message))


def test_parts_of_more_bytes_than_a_message_can_tell_are_refused() -> None:
    part = Part("layer", 0, (PartTensor("w", "F32", (1,), 2**62),), "0" * 64)
    assert decode_parts(encode_parts([part])) == (part,)
    with pytest.raises(WireError, match="more bytes than there are"):
        decode_parts(encode_parts([part, part]))
