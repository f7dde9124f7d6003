"""Requests, jobs, events and conversations as a week of use leaves them, for the pictures.

The registry and everything that reads it are real; what is in it is made up.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import accumulate

import msgspec

import app.registry.requests as requests_table
from app.paths import Home
from app.registry import EventLevel, Registry, RequestStatus
from app.runs.trace import (
    ModelFacts,
    NodeFacts,
    NodeMemory,
    Origin,
    Plan,
    RequestTrace,
    StagePlan,
    StageShare,
    TokenTime,
    Versions,
    pack,
)
from app.ui.chat.conversation import Conversation, Figures, Message, Role

MODEL = "Qwen3-14B"
GB = 1_000_000_000
ASKED = (
    ("Why does decoding wait for memory and not for arithmetic?", 41,
     "Every token needs all weights once, and each weight is used for one multiplication only. So the time goes into "
     "reading: 29.5 GB a token, at the speed of the memory."),
    ("What is the capital of France?", 14, "The capital of France is Paris."),
    ("List the planets by mass, as a table", 22, "| planet | mass (Earth = 1) |\n| --- | --- |\n| Jupiter | 318 |"),
    ("Summarize the minutes of the last meeting", 1_204,
     "Three decisions: the rack moves to the cellar, backups run at night, and the old printer goes."),
    ("Translate to German: the shard fits", 18, "Die Scherbe passt."),
    ("Write a limerick about a router", 15,
     "A router that sat on a shelf\nsent packets for fun to itself;\nthe loop that it made\nleft the office dismayed,\n"
     "and they all went back to the shelf."),
    ("Explain pipeline parallelism to someone who has run a kitchen.", 27,
     "Think of the model as a long recipe, and of each machine as a cook who knows one part of it."),
)  # fmt: skip
STAGES = ((1, "studio", 0, 22, 17_600), (2, "rack-1", 22, 32, 7_300), (3, "rack-2", 32, 40, 7_400))
COMPUTE_US = (19_300, 13_900, 13_400)
LOST = "rack-2 (layers 32–39) was lost: it has left 3 health beats unanswered."


def fill_home(home: Home) -> None:
    """Everything but nodes and deployments, which are shown without being registered."""
    now = datetime.now(UTC)
    with Registry.open(home.registry) as registry:
        for number in range(60):
            _request(registry, number, now - timedelta(minutes=3 + 41 * (59 - number) + number % 7))
        _events(registry, now)
    chats = home.root / "chats"
    chats.mkdir()
    for number, title in enumerate(("Pipeline parallelism", "Minutes of Monday", "Limericks", "A table of planets")):
        conversation = _conversation(title, now - timedelta(hours=5 * number))
        (chats / f"{conversation.id}.json").write_bytes(msgspec.json.encode(conversation))


def _request(registry: Registry, number: int, asked: datetime) -> None:
    prompt, prompt_tokens, answer = ASKED[(59 - number) % len(ASKED)]
    failed, cancelled = number % 17 == 5, number % 23 == 7
    count = 31 if failed else 60 + number * 37 % 240
    trace = _trace(count, prompt_tokens, random.Random(number))
    took = trace.tokens[-1].at_us / 1e6
    first = trace.tokens[0].at_us / 1e6
    ended = RequestStatus.FAILED if failed else RequestStatus.CANCELLED if cancelled else RequestStatus.COMPLETED
    with _time_is(asked):
        record = registry.requests.add(
            model_name=MODEL, prompt=prompt, prompt_token_ids=range(prompt_tokens),
            parameters={"temperature": 0.7, "seed": 1000 + number, "max_tokens": 512},
            origin=msgspec.to_builtins(trace.origin),
        )  # fmt: skip
    record = replace(
        record, status=ended, result=answer, error=LOST if failed else None, token_ids=tuple(range(count)),
        finish_reason="error" if failed else "cancelled" if cancelled else "stop", completion_tokens=count,
        prompt_tokens=prompt_tokens, started_at=asked + timedelta(microseconds=trace.first_step_us),
        completed_at=asked + timedelta(seconds=took),
        timings={
            "prepare": trace.first_step_us / 1e6, "first_token": first, "decode": took - first, "total": took,
            "tokens_per_second": (count - 1) / (took - first),
        },
    )  # fmt: skip
    registry.requests.save(record, trace=pack(trace)).result()


def _trace(count: int, prompt_tokens: int, dice: random.Random) -> RequestTrace:
    """A steady answer with the small and large waits of a real one."""
    plan = Plan(
        deployment="1f2e3d4c", plan_hash="7c" * 32, model=MODEL, dtype="bfloat16", context=16_384, kv_tokens=16_384,
        epoch=4,
        stages=tuple(
            StagePlan(stage=k, node_id=id, node=name, start=start, end=end, weight_bytes=size * 925_000,
                      kv_bytes=size * 75_000)
            for k, (id, name, start, end, size) in enumerate(STAGES)
        ),
    )  # fmt: skip
    tokens, first_step_us = [], 4_100
    for at in range(count):
        slower = 1 + 0.05 * math.sin(at / 9) + dice.random() * 0.06
        # The first token's step reads the prompt.
        shares = tuple(
            StageShare(dice.randrange(60, 900), int(us * slower * (6 + prompt_tokens / 90 if at == 0 else 1)))
            for us in COMPUTE_US
        )
        wire = dice.randrange(1_900, 3_600) + (18_000 if dice.random() < 0.03 else 0)
        tokens.append((sum(share.queue_us + share.compute_us for share in shares) + wire, shares))
    ends = accumulate((took for took, _ in tokens), initial=first_step_us)
    next(ends)
    return RequestTrace(
        origin=Origin(via="window", user="ada"),
        versions=Versions(
            shardboard="0.3.0", python="3.12.4", system="macOS 15.1", wire=4, packages={"tokenizers": "0.22.1"}
        ),
        model=ModelFacts(
            name=MODEL, architecture="Qwen3ForCausalLM", source="hub", layers=40, parameters=14_768_307_200,
            dtype="bfloat16", content="5e" * 32,
        ),
        plan=plan,
        nodes=tuple(
            NodeFacts(
                node_id=id, name=name, address=f"tcp://192.168.1.{20 + id}:7600", system="Linux 6.12", cpu="16 threads",
                device="cuda" if id > 1 else "mps", threads=8, software="0.3.0", torch="2.13.0", transformers="5.23.0",
                memory_total=32 * GB, memory_budget=budget * GB,
            )
            for (id, name, *_), budget in zip(STAGES, (24, 12, 12), strict=True)
        ),
        first_step_us=first_step_us,
        tokens=tuple(TokenTime(end, took, 1, shares) for end, (took, shares) in zip(ends, tokens, strict=True)),
        memory=tuple(
            NodeMemory(node_id=id, process=size * 1_010_000 + 290_000_000, agent=280_000_000,
                       believed=size * 1_000_000 + 280_000_000, used=size * 1_000_000, budget=budget * GB,
                       available=budget * GB - size * 1_000_000)
            for (id, _, _, _, size), budget in zip(STAGES, (24, 12, 12), strict=True)
        ),
    )  # fmt: skip


def _events(registry: Registry, now: datetime) -> None:
    happened = (
        (EventLevel.INFO, "deployments", "Qwen3-14B is deployed: layers 0–21 on studio, 22–31 on rack-1, 32–39 on "
         "rack-2."),
        (EventLevel.INFO, "health", "The agent is there."),
        (EventLevel.WARNING, "health", "The agent was started anew; what it held is gone."),
        (EventLevel.ERROR, "health", "It has left 3 health beats unanswered."),
        (EventLevel.INFO, "models", "Qwen3-14B was added."),
    )  # fmt: skip
    for number in range(80):
        level, source, message = happened[number % len(happened)]
        node = number % 4 + 1 if source == "health" else None
        registry.events.add(level, source, message, node_id=node, at=now - timedelta(minutes=7 * number))


def _conversation(title: str, updated_at: datetime) -> Conversation:
    answer = (
        "Think of the model as a long recipe, and of each machine as a cook who knows **one part** of it.\n\n"
        "1. The first cook chops and hands the bowl on.\n2. The second one seasons.\n3. The last one plates and calls "
        "the next order.\n\nWhile a single order travels, the others wait; with several orders, every cook is busy. In "
        "code:\n\n```python\nfor stage in pipeline:\n    hidden = stage.run(hidden)\ntoken = sample(hidden)\n```\n"
    )
    conversation = Conversation(title=title, model=MODEL, updated_at=updated_at)
    conversation.messages = [
        Message(role=Role.USER, text=ASKED[-1][0]),
        Message(
            role=Role.ASSISTANT, text=answer, model=MODEL, request_id=60,
            figures=Figures(tokens=128, tokens_per_second=19.9, first_token=0.38, total=6.8),
        ),
    ]  # fmt: skip
    return conversation


@contextmanager
def _time_is(moment: datetime) -> Iterator[None]:
    """What is asked now was asked then."""
    real = requests_table.now
    requests_table.now = lambda: moment
    try:
        yield
    finally:
        requests_table.now = real
