"""What an agent does on each message, apart from sockets: `agent.py` brings the messages and carries the answers.

Everything here runs in the I/O thread and returns at once; what takes time is handed to the storekeeper, the
loader or the compute thread, which answer through `post`.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from worker_agent import __version__
from worker_agent.engine.outgoing import Destination, Outgoing
from worker_agent.engine.stage import Stage
from worker_agent.host.among_agents import AmongAgents
from worker_agent.host.budget import MemoryBudget, main_memory_of
from worker_agent.host.compute import Compute
from worker_agent.host.loader import Loader, LoadJob
from worker_agent.host.owner import OwnerWatch
from worker_agent.host.telemetry import Sample, Telemetry, cpu_name
from worker_agent.process import usable_cores
from worker_agent.store.shard_store import ShardStore
from worker_agent.store.storekeeper import Reply, Storekeeper, failed
from worker_agent.wire.access import Access
from worker_agent.wire.callers import Caller, Callers
from worker_agent.wire.errors import AgentError, Draining, UnknownStage, VersionMismatch, WireError
from worker_agent.wire.messages import (
    OLDEST_WIRE_VERSION,
    WIRE_VERSION,
    AdmitFetch,
    AdmitProbe,
    Buffer,
    Cancel,
    CatchUp,
    Chunk,
    Constrain,
    Done,
    Drain,
    Fetch,
    Halt,
    Health,
    HealthReport,
    Hello,
    Link,
    Load,
    Loaded,
    LoadProgress,
    Message,
    Numerics,
    Offer,
    Ping,
    ProbeLink,
    ReadJournal,
    ReadLog,
    ReadPart,
    ReadStates,
    Recompute,
    Shutdown,
    StageFault,
    Start,
    Step,
    Tokens,
    Unload,
    Welcome,
    WriteJournal,
    WriteStates,
    decode_parts,
)
from worker_agent.wire.peers import PeerName, Peers

log = logging.getLogger(__name__)

Payload = Sequence[Buffer]
StageKey = tuple[str, int]

DOWNSTREAM, FIRST = "downstream", "first"


@dataclass(frozen=True)
class AgentIdentity:
    """What does not change while the agent runs."""

    boot: str
    agent: str
    name: str
    numerics: Numerics


@dataclass
class _Held:
    """A stage that is loaded or being loaded."""

    load: Load
    digests: tuple[str, ...]
    epoch: int
    job: LoadJob | None = None
    """Until it is loaded."""
    loaded: Loaded | None = None
    when_gone: list[Callable[[], None]] = field(default_factory=list)


@dataclass(frozen=True)
class Resources:
    """The threads and stores that do the work."""

    access: Access
    callers: Callers
    budget: MemoryBudget
    store: ShardStore
    storekeeper: Storekeeper
    loader: Loader
    telemetry: Telemetry
    peers: Peers
    among: AmongAgents
    owner: OwnerWatch
    aside: Path
    """A folder for the states of sequences that yield to others."""


class Service:
    """Dispatches messages that were decoded and allowed.

    Args:
        post: runs a function in the I/O thread soon; any thread may call it.
        to_owner: sends a message to the controller that drives a deployment, best effort.
        stop: ends the agent.
    """

    def __init__(
        self,
        identity: AgentIdentity,
        resources: Resources,
        post: Callable[[Callable[[], None]], None],
        to_owner: Callable[[str, Message], None],
        stop: Callable[[], None],
    ) -> None:
        self._identity = identity
        self._resources = resources
        self._post = post
        self._to_owner = to_owner
        self._stop = stop
        self._compute: Compute
        self._stages: dict[StageKey, _Held] = {}
        self._local: frozenset[PeerName] = frozenset()
        self._draining = False
        self._grammarian = ThreadPoolExecutor(1, "grammar")
        self._memory_base = resources.telemetry.latest.process_memory
        self._empty_since = 0.0
        """Since when there has been no stage, by the monotonic clock."""
        self._base_since = 0.0
        """Since when the base is the least that was seen."""
        self.dropped = 0

    def attach(self, compute: Compute) -> None:
        """The compute thread, which is made with this service's `send_out`."""
        self._compute = compute

    def handle(self, caller: Caller, message: Message, payload: Payload, reply: Reply) -> None:
        """Do what a message asks. Raises AgentError for what cannot be done."""
        match message:
            case Step():
                self._compute.step(message, payload)
            case Tokens():
                self._compute.tokens(message)
            case Health():
                reply(self._health(message))
            case Chunk() | Offer() | ReadLog() | ReadPart():
                self._resources.storekeeper.submit(message, payload, reply)
            case Ping() | AdmitProbe() | ProbeLink() | AdmitFetch() | Fetch():
                self._resources.among.handle(caller.key, message, payload, reply)
            case Constrain():
                self._constrain(message, payload, reply)
            case Start():
                self._resources.callers.claim(message.deployment, caller)
                self._compute.start_sequence(message, payload, reply)
            case Cancel():
                self._compute.cancel(message, reply)
            case CatchUp():
                # Whoever asks this takes over: what comes from now on goes there as well.
                self._resources.callers.claim(message.deployment, caller)
                self._compute.catch_up(message, reply)
            case Hello():
                reply(self._welcome(caller, message))
            case Load():
                self._load(caller, message, payload, reply)
            case Link():
                self._link(caller, message, reply)
            case Halt():
                self._compute.halt(message, reply)
            case ReadJournal() | ReadStates():
                self._compute.read_kept(message, reply)
            case WriteStates() | WriteJournal():
                self._compute.write_copies(message, payload, reply)
            case Recompute():
                self._compute.recompute(message, payload, reply)
            case Unload():
                self._unload(message, reply)
            case Drain():
                self._draining = message.draining
                self._compute.set_draining(message.draining)
                reply(Done(call=message.call))
            case Shutdown():
                log.info("shutdown asked for by a controller")
                reply(Done(call=message.call))
                self._stop()
            case _:
                raise WireError(f"an agent does not take a {type(message).__name__}")

    # --- who I am, how I am ---

    def _welcome(self, caller: Caller, message: Hello) -> Welcome:
        if message.newest < OLDEST_WIRE_VERSION or message.oldest > WIRE_VERSION:
            raise VersionMismatch(
                f"the controller speaks wire versions {message.oldest} to {message.newest}, this agent (Shardboard "
                f"{__version__}) {OLDEST_WIRE_VERSION} to {WIRE_VERSION}; update the older of the two"
            )
        self._resources.callers.greet(caller, message.boot, time.monotonic())
        sample = self._resources.telemetry.latest
        return Welcome(
            call=message.call,
            version=min(message.newest, WIRE_VERSION),
            boot=self._identity.boot,
            agent=self._identity.agent,
            hostname=self._identity.name,
            system=platform.platform()[:200],
            software=__version__,
            numerics=self._identity.numerics,
            cpu_name=cpu_name(),
            cpu_count=usable_cores(),
            memory_total=sample.memory.total,
            memory_budget=self._resources.budget.total,
            memory_base=self._base(sample),
            disk_free=sample.disk_free,
            gpus=sample.gpus,
            stages=self._compute.stages(),
            speeds=self._compute.speeds(),
            disk=self._resources.telemetry.disk.speed,
        )

    def _health(self, message: Health) -> HealthReport:
        sample, stages = self._resources.telemetry.latest, self._compute.stages()
        base = self._base(sample)
        return HealthReport(
            call=message.call,
            boot=self._identity.boot,
            cpu_percent=sample.cpu_percent,
            process_cpu_percent=sample.process_cpu_percent,
            load_1m=sample.load_1m,
            memory_total=sample.memory.total,
            memory_available=sample.memory.available,
            process_memory=sample.process_memory,
            memory_base=base,
            memory_held=base + main_memory_of(stages, on_gpu=self._identity.numerics.device != "cpu"),
            memory_budget=self._resources.budget.total,
            memory_used=self._resources.budget.used,
            disk_free=sample.disk_free,
            gpus=sample.gpus,
            progress=self._compute.progress(),
            stages=stages,
            draining=self._draining,
            yields=self._resources.owner.reason,
            loading=sum(each.loaded is None for each in self._stages.values()),
            dropped=self.dropped,
            speeds=self._compute.speeds(),
        )

    def _base(self, sample: Sample) -> int:
        """What the process holds besides stages: the least since it had none, and all that they need was there.

        More is there for moments: parts that arrive, matrices by which its speed is measured.
        """
        loader, held = self._resources.loader, sample.process_memory
        if loader.ready_since > self._base_since:
            self._memory_base, self._base_since = loader.ready_memory, loader.ready_since
        since = max(self._empty_since, self._base_since)
        if not self._stages and sample.process_memory_at > since:
            self._memory_base = held if since > self._base_since else min(self._memory_base, held)
            self._base_since = since
        return self._memory_base

    # --- stages ---

    def _constrain(self, message: Constrain, payload: Payload, reply: Reply) -> None:
        """In a thread of its own: a tokenizer takes some tenths of a second to be read, and steps must not wait."""
        if not self._holds_any(message.deployment):
            raise UnknownStage(f"This node holds no stage of deployment {message.deployment}.")
        tokenizer = b"".join(payload) or None

        def work() -> None:
            try:
                self._compute.grammars.prepare(message.deployment, message.constraint, message.eos, tokenizer)
            # a message handler begins here; whatever went wrong, the sender is told
            except Exception as error:
                if not isinstance(error, AgentError):
                    log.exception("a grammar could not be made ready")
                reply(failed(message.call, error))
            else:
                self._post(prepared)

        def prepared() -> None:
            if not self._holds_any(message.deployment):  # unloaded meanwhile: nobody else would forget it
                self._compute.grammars.forget(message.deployment)
            reply(Done(call=message.call))

        self._grammarian.submit(work)

    def _holds_any(self, deployment: str) -> bool:
        return any(held == deployment for held, _ in self._stages)

    def _load(self, caller: Caller, message: Load, payload: Payload, reply: Reply) -> None:
        parts = decode_parts(payload[1])
        key = (message.deployment, message.stage)
        held = self._stages.get(key)
        if held is not None:
            self._load_again(caller, held, message, reply)
            return
        if self._draining:
            raise Draining("This node is being drained and takes no new stages.")
        held = _Held(message, tuple(part.digest for part in parts), message.epoch)
        held.job = LoadJob(
            load=message,
            config=bytes(payload[0]),
            parts=parts,
            on_progress=lambda done, total: reply(LoadProgress(call=message.call, done_bytes=done, total_bytes=total)),
            on_loaded=lambda stage, seconds: self._post(partial(self._loaded, key, stage, seconds, reply)),
            on_failed=lambda error: self._post(partial(self._load_failed, key, error, reply)),
        )
        self._stages[key] = held
        self._resources.store.pin(held.digests)
        self._resources.callers.claim(message.deployment, caller)
        self._resources.access.announce(*key, message.upstream_key, message.ring_key)
        self._resources.loader.submit(held.job)

    def _load_again(self, caller: Caller, held: _Held, message: Load, reply: Reply) -> None:
        """A Load of what is loaded already only announces the neighbours anew: one of them may have moved."""
        if held.loaded is None:
            raise AgentError("This stage is being loaded already; wait for it, or unload it first.")
        if not _same_stage(held.load, message):
            raise AgentError("This node holds another stage under the same deployment and number; unload it first.")
        held.load = message
        self._resources.callers.claim(message.deployment, caller)
        self._resources.access.announce(message.deployment, message.stage, message.upstream_key, message.ring_key)
        reply(msgspec.structs.replace(held.loaded, call=message.call))

    def _loaded(self, key: StageKey, stage: Stage, seconds: float, reply: Reply) -> None:
        held = self._stages[key]
        assert held.job is not None
        if held.job.cancelled.is_set():
            # Freeing it takes a moment, which is the compute thread's to spend.
            cancelled = AgentError("The stage was unloaded while it was loaded.")
            self._compute.add_stage(stage)
            self._compute.remove_stage(*key, lambda: self._post(partial(self._load_failed, key, cancelled, reply)))
            return
        held.job = None
        loaded = held.loaded = Loaded(
            call=0,
            weight_bytes=stage.weight_bytes,
            kv_bytes=stage.kv_bytes,
            seconds=seconds,
            ways=stage.ways.report(),
            reuse=stage.reuse,
            weights_error=stage.weights_error,
            kv_error=stage.kv_error,
            answers_alone=stage.answers_alone,
            block_tokens=stage.block_tokens,
        )
        self._compute.add_stage(
            stage, lambda: reply(loaded), lambda error: self._post(partial(self._load_failed, key, error, reply))
        )

    def _load_failed(self, key: StageKey, error: BaseException, reply: Reply) -> None:
        self._forget(key)
        reply(failed(0, error))

    def _unload(self, message: Unload, reply: Reply) -> None:
        key = (message.deployment, message.stage)
        held = self._held(*key)
        held.when_gone.append(lambda: reply(Done(call=message.call)))
        if held.job is not None:
            held.job.cancelled.set()
        elif len(held.when_gone) == 1:
            self._resources.peers.close_stage(*key)
            self._compute.remove_stage(*key, lambda: self._post(partial(self._forget, key)))

    def _forget(self, key: StageKey) -> None:
        """A stage is gone: give back all that was set aside for it."""
        held = self._stages.pop(key)
        self._empty_since = time.monotonic()
        deployment = key[0]
        self._resources.peers.close_stage(*key)
        self._local = frozenset(name for name in self._local if (name.deployment, name.stage) != key)
        self._resources.budget.release(*key)
        self._resources.store.unpin(held.digests)
        self._resources.access.retire(*key)
        if not self._holds_any(deployment):
            self._resources.callers.release(deployment)
        for tell in held.when_gone:
            tell()

    def _link(self, caller: Caller, message: Link, reply: Reply) -> None:
        held = self._held(message.deployment, message.stage)
        if held.loaded is None:
            raise UnknownStage("This stage is still being loaded; link it after Loaded.")
        if message.epoch < held.epoch:
            raise AgentError(f"The stage is at epoch {held.epoch} already; a link of epoch {message.epoch} is too old.")
        held.epoch = message.epoch
        self._resources.callers.claim(message.deployment, caller)
        for to, address, key in (
            (DOWNSTREAM, message.downstream, message.downstream_key),
            (FIRST, message.first, message.first_key),
        ):
            self._connect(PeerName(message.deployment, message.stage, to), address, key)
        self._compute.link(message, reply)

    def _connect(self, name: PeerName, address: str | None, key: str | None) -> None:
        if address is None:
            self._resources.peers.close(name)
            self._local |= {name}
            return
        if key is None:
            raise WireError("a link with an address and without the key of the agent there")
        self._local -= {name}
        self._resources.peers.connect(name, address, key)

    def _held(self, deployment: str, stage: int) -> _Held:
        held = self._stages.get((deployment, stage))
        if held is None:
            raise UnknownStage(f"This node holds no stage {stage} of the deployment {deployment}.")
        return held

    # --- what compute sends ---

    def send_out(self, outgoing: Outgoing) -> None:
        """Take a message from the compute thread to where it belongs. Never waits."""
        if outgoing.to is Destination.CONTROLLER:
            self._post(partial(self._to_owner, outgoing.deployment, outgoing.message))
            return
        to = DOWNSTREAM if outgoing.to is Destination.DOWNSTREAM else FIRST
        name = PeerName(outgoing.deployment, outgoing.stage, to)
        if name not in self._local:
            self._post(partial(self._to_peer, name, outgoing.message, outgoing.payload))
        elif isinstance(outgoing.message, Step):
            self._compute.step(outgoing.message, outgoing.payload)
        elif isinstance(outgoing.message, Tokens):
            self._compute.tokens(outgoing.message)

    def _to_peer(self, name: PeerName, message: Message, payload: Payload) -> None:
        taken = self._resources.peers.push(name, message, payload)
        if taken is None:
            self.dropped += 1
        elif not taken:
            self.report_trouble(name, "link", "The next agent takes no more data: too much waits to be sent to it.")

    def report_trouble(self, name: PeerName, kind: str, sentence: str) -> None:
        """A connection to another agent is in trouble: tell the controller, if sequences depend on it."""
        held = self._stages.get((name.deployment, name.stage))
        if held is None:
            return
        running = any(
            info.sequences for info in self._compute.stages()
            if (info.deployment, info.stage) == (name.deployment, name.stage)
        )  # fmt: skip
        # without sequences a connection that was lost has lost nothing: it comes back by itself
        if kind == "link_lost" and not running:
            return
        self._fault(held, kind, sentence)

    def report_death(self, sentence: str) -> None:
        """The compute thread has ended: no stage goes on."""
        for held in self._stages.values():
            self._fault(held, "internal", sentence)

    def drop_silent(self, now: float) -> None:
        """End the sequences of controllers that have fallen silent."""
        for deployment in self._resources.callers.fallen_silent(now):
            log.warning("the controller of %s has fallen silent: its sequences are dropped", deployment)
            self._compute.drop_sequences(deployment)

    def _fault(self, held: _Held, kind: str, sentence: str) -> None:
        load, text = held.load, sentence[:8000]
        log.error("stage %d of %s: %s", load.stage, load.deployment, sentence)
        fault = StageFault(deployment=load.deployment, epoch=held.epoch, stage=load.stage, kind=kind, message=text)
        self._to_owner(load.deployment, fault)


def _same_stage(one: Load, other: Load) -> bool:
    """Whether two Loads want the same stage: all but the call, the epoch and the neighbours."""
    return _stage_of(one) == _stage_of(other)


def _stage_of(load: Load) -> Load:
    return msgspec.structs.replace(load, call=0, epoch=0, upstream_key=None, ring_key=None)
