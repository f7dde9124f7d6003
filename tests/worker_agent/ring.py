"""A whole pipeline in one process, without threads or sockets: runners that hand each other their messages."""

from __future__ import annotations

import json
import struct
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import blake3
import numpy as np
import torch
from msgspec.structs import replace

import tests.worker_agent.as_agents  # noqa: F401  # first
from worker_agent.engine.loading import load_stage
from worker_agent.engine.outgoing import Destination, Outgoing
from worker_agent.engine.runner import Runner
from worker_agent.engine.runtime import Runtime
from worker_agent.model.anatomy import Anatomy, assign, build_empty, examine_once
from worker_agent.wire.messages import (
    Budget,
    DType,
    Link,
    Load,
    Part,
    PartKind,
    PartTensor,
    Resumed,
    Sampling,
    StageFault,
    Start,
    Step,
    TensorFrame,
    Token,
    Tokens,
    check_payload,
    decode,
    encode,
)

RUNTIME = Runtime("cpu", 1, 1)


@dataclass(frozen=True)
class CutModel:
    """A model folder, cut into parts on disk."""

    config: bytes
    anatomy: Anatomy
    parts: tuple[Part, ...]
    folder: Path

    def parts_for(self, start: int, end: int) -> tuple[Part, ...]:
        ends = {"common"} | ({"first", "tied"} if start == 0 else set())
        ends |= {"last", "tied"} if end == self.anatomy.num_layers else set()
        return tuple(p for p in self.parts if (p.kind == "layer" and start <= p.index < end) or p.kind in ends)


def cut_model(folder: Path, parts_folder: Path) -> CutModel:
    """Cut a folder with one `model.safetensors` into its parts."""
    config = (folder / "config.json").read_bytes()
    model = build_empty(config)
    anatomy = examine_once(model, config, torch.float32)
    raw = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    grouped: dict[tuple[PartKind, int], list[str]] = defaultdict(list)
    for name, key in assign(model, anatomy, header).items():
        grouped[key].append(name)
    parts = []
    parts_folder.mkdir(parents=True, exist_ok=True)
    for (kind, index), names in sorted(grouped.items()):
        content, tensors = b"", []
        for name in names:
            start, end = (8 + length + offset for offset in header[name]["data_offsets"])
            content += raw[start:end]
            tensors.append(PartTensor(name, header[name]["dtype"], tuple(header[name]["shape"]), end - start))
        digest = blake3.blake3(content).hexdigest()
        (parts_folder / digest).write_bytes(content)
        parts.append(Part(kind, index, tuple(tensors), digest))
    return CutModel(config, anatomy, tuple(parts), parts_folder)


def load_message(cut: CutModel, start: int, end: int, stage: int, stages: int, **changes: object) -> Load:
    """A Load with sensible values for tests."""
    fields: dict[str, object] = {
        "call": 1, "deployment": "d1", "plan": "p1", "epoch": 1, "stage": stage, "stages": stages,
        "start": start, "end": end, "model": "tiny", "dtype": "float32", "kv_tokens": 4096, "max_context": 4096,
        "max_sequences": 64, "prefill_chunk": 512, "upstream_key": None, "ring_key": None,
    }  # fmt: skip
    return Load(**{**fields, **changes})  # type: ignore[arg-type]


@dataclass
class Ring:
    """Runners of one pipeline and the post between them. Every message goes through its bytes and back."""

    runners: list[Runner]
    post: deque[tuple[int, Outgoing]] = field(default_factory=deque)
    tokens: dict[int, list[Token]] = field(default_factory=lambda: defaultdict(list))
    faults: list[StageFault] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    finished: set[int] = field(default_factory=set)
    cached: dict[int, int] = field(default_factory=dict)
    """How many of its first tokens a sequence shared with another one."""
    prefilled: dict[int, int] = field(default_factory=dict)
    """How many tokens of its prompt are in the caches."""
    payloads: list[bytes] = field(default_factory=list)
    """The hidden states of `steps`."""
    epoch: int = 1
    lanes: int | None = None
    """Steps that may be in flight at once; None for as many as there are stages."""
    block: int | None = None
    """In blocks of how many tokens memory is counted; None for as large as the stages' memory pages want."""

    @classmethod
    def build(
        cls,
        cut: CutModel,
        boundaries: Sequence[int],
        *,
        lanes: int | None = None,
        block: int | None = None,
        **changes: object,
    ) -> Ring:
        """`boundaries` are the inner ones: [3] makes two stages."""
        edges = [0, *boundaries, cut.anatomy.num_layers]
        ring = cls([], lanes=lanes, block=block)
        for stage, (start, end) in enumerate(pairwise(edges)):
            load = load_message(cut, start, end, stage, len(edges) - 1, **changes)
            loaded = load_stage(
                load, cut.config, cut.parts_for(start, end), lambda digest: cut.folder / digest, RUNTIME, 10**12,
                lambda done, total: None,
            )  # fmt: skip
            ring.runners.append(Runner(loaded, RUNTIME, f"boot{stage}", ring._sender(stage)))
        ring.link()
        return ring

    def _sender(self, stage: int) -> Callable[[Outgoing], None]:
        return lambda outgoing: self.post.append((stage, outgoing))

    def link(self) -> None:
        """A new epoch on every stage."""
        self.epoch += 1
        for stage, runner in enumerate(self.runners):
            runner.link(self.link_of(stage))

    def link_of(self, stage: int, resumed: tuple[Resumed, ...] = ()) -> Link:
        """As the controller would link a stage in this epoch."""
        message = Link(call=1, deployment="d1", stage=stage, epoch=self.epoch, resumed=resumed)
        if stage:
            return message
        stages = [runner.stage for runner in self.runners]
        return replace(
            message, whole_prompts=not all(each.in_pieces for each in stages), lanes=self.lanes or len(stages),
            reuse=min((each.reuse for each in stages), key=("no", "whole", "any").index),
            answers_alone=any(each.answers_alone for each in stages),
            block_tokens=self.block or max(each.block_tokens for each in stages),
        )  # fmt: skip

    def start(
        self,
        number: int,
        prompt: Sequence[int],
        max_tokens: int,
        sampling: Sampling | None = None,
        answered: Sequence[int] = (),
        **budget: object,
    ) -> None:
        """`answered` is what came of it before, on a ring that was lost."""
        tokens = np.asarray([*prompt, *answered], dtype=np.int32)
        message = Start(
            call=1, deployment="d1", epoch=self.epoch, sequence=number, prompt_tokens=len(prompt),
            sampling=sampling or Sampling(), budget=Budget(max_tokens=max_tokens, **budget),  # type: ignore[arg-type]
            tokens=TensorFrame(DType.INT32, (len(tokens),)), resumed=bool(answered),
        )  # fmt: skip
        self.runners[0].start(message, (tokens.tobytes(),), False)

    def deliver(self) -> None:
        """Hand out all mail that lies there now."""
        for _ in range(len(self.post)):
            stage, outgoing = self.post.popleft()
            message = decode(encode(outgoing.message))
            payload = tuple(bytes(frame) for frame in outgoing.payload)
            check_payload(message, payload)
            if outgoing.to is Destination.DOWNSTREAM:
                assert isinstance(message, Step)
                self.steps.append(message)
                self.payloads.append(b"".join(payload))
                self.runners[stage + 1].arrived(message, payload)
            elif outgoing.to is Destination.FIRST:
                assert isinstance(message, Tokens)
                self.runners[0].came_round(message)
            elif isinstance(message, Tokens):
                self.cached |= dict(message.cached)
                self.prefilled |= dict(message.prefilled)
                for token in message.tokens:
                    self.tokens[token.sequence].append(token)
                    if token.finish:
                        self.finished.add(token.sequence)
            else:
                assert isinstance(message, StageFault)
                self.faults.append(message)

    def turn(self) -> int:
        """Every stage does what it can, then the mail goes out; how much was done."""
        done = sum(runner.work() for runner in self.runners) + len(self.post)
        self.deliver()
        return done

    def finish(self) -> None:
        """Run until nothing is left to do."""
        while self.turn():
            pass

    def answer(self, number: int) -> list[int]:
        return [token.token for token in self.tokens[number]]


def random_prompt(length: int, vocabulary: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocabulary, (length,), generator=generator).tolist()
