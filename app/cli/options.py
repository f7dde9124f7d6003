"""Options that several commands share, and how their text is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import typer

from app.errors import BadInput
from app.serving import DEFAULT_WAIT_SECONDS, KV_DTYPES, MAX_WAIT_SECONDS, QUANTIZE, RECOVERIES, ServingWish
from app.sharding.planning.aims import AIMS

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Nodes = Annotated[str | None, typer.Option("--nodes", help="Ids of the nodes to use, in order: 1,2,…")]
Layers = Annotated[str | None, typer.Option("--layers", help="The layers of each shard, ends included: 0-9,10-20,…")]
DType = Annotated[
    str | None, typer.Option("--dtype", help="What to compute with: float32, bfloat16 or float16. [default: as stored]")
]
Quantize = Annotated[
    str | None,
    typer.Option(
        "--quantize", help="Put the layers' matrices into int8 or int4 while loading, at the cost of some accuracy."
    ),
]
KvDType = Annotated[
    str | None,
    typer.Option(
        "--kv",
        help="In what to keep keys and values: as they are computed (computed), or in 8 bits (int8), which holds two "
        "to four times the tokens at the cost of some accuracy. [default: computed]",
    ),
]
Context = Annotated[int | None, typer.Option("--context", min=1, help="Longest sequence to serve, in tokens.")]
Recovery = Annotated[
    str | None,
    typer.Option(
        help="How answers go on when a stage is lost: fast, which in half precision may change low bits, or exact, to "
        "the bit, from a journal that every stage keeps. [default: fast]",
    ),
]
Wait = Annotated[
    int | None,
    typer.Option(
        "--wait",
        min=0,
        max=MAX_WAIT_SECONDS,
        help="For how many seconds answers wait for a lost node whose layers no other one has room for. "
        f"[default: {DEFAULT_WAIT_SECONDS}]",
    ),
]
KvTokens = Annotated[
    int | None, typer.Option("--kv-tokens", min=1, help="Tokens to keep keys and values for, over all sequences.")
]

Aim = Annotated[
    str,
    typer.Option(
        "--aim",
        help="What the planner aims at where --layers leaves it a choice: "
        + ", ".join(f"{aim} ({name})" for aim, name in AIMS.items())
        + ".",
    ),
]

DTYPES = ("float32", "bfloat16", "float16")


def read_ids(text: str | None, option: str) -> list[int] | None:
    """`1,2` as numbers. Raises BadInput."""
    if text is None:
        return None
    try:
        ids = [int(item) for item in text.split(",")]
    except ValueError:
        raise BadInput(f"{option} is '{text}'; it takes whole numbers with commas between them: 1,2.") from None
    if any(number < 0 for number in ids):
        raise BadInput(f"{option} is '{text}'; its numbers must not be negative.")
    return ids


def read_nodes(text: str | None) -> list[int] | None:
    """Node ids, each once. Raises BadInput."""
    ids = read_ids(text, "--nodes")
    if ids is not None and len(set(ids)) < len(ids):
        raise BadInput(f"--nodes is '{text}'; it names a node twice.")
    return ids


def read_wish(
    *, dtype: str | None, quantize: str | None, kv_dtype: str | None, context: int | None = None,
    kv_tokens: int | None = None, wait: int | None = None, recovery: str | None = None,
) -> ServingWish:  # fmt: skip
    """What a model is to be loaded for. Raises BadInput for a word that an option does not take."""
    for option, text, words in (
        ("--dtype", dtype, DTYPES), ("--quantize", quantize, QUANTIZE), ("--kv", kv_dtype, KV_DTYPES),
        ("--recovery", recovery, RECOVERIES),
    ):  # fmt: skip
        if text is not None and text not in words:
            raise BadInput(f"{option} is '{text}'; it can be {', '.join(words)}.")
    return ServingWish(
        dtype=dtype, context=context, kv_tokens=kv_tokens, quantize=quantize, kv_dtype=kv_dtype, wait_seconds=wait,
        recovery=recovery,
    )  # fmt: skip


def read_aim(text: str) -> str:
    """One of AIMS. Raises BadInput."""
    if text not in AIMS:
        raise BadInput(f"--aim is '{text}'; it can be {', '.join(AIMS)}.")
    return text


def read_amounts(texts: Sequence[str], option: str) -> dict[str, float]:
    """`NAME=AMOUNT` each, as a table. Raises BadInput."""
    found = {}
    for text in texts:
        name, _, amount = text.partition("=")
        match = re.fullmatch(r"\d+(\.\d+)?", amount)
        if not name or match is None or float(amount) == 0:
            raise BadInput(f"{option} is '{text}'; it takes a name and an amount: rack=1.")
        found[name] = float(amount)
    return found


def read_size(text: str, option: str) -> int:
    """Bytes from 4GB, 512 MB or a plain number. Raises BadInput."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)b?\s*", text.lower())
    if match is None:
        raise BadInput(f"{option} is '{text}'; it takes a size such as 4GB or 512MB.")
    return int(float(match[1]) * 1000 ** " kmgt".index(match[2] or " "))
