"""What lies in an incident bundle, as types: `docs/incident.md` describes the files for those who open one."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from app.runs.run import Run, RunEvent
from app.runs.trace import NodeFacts, Plan, Versions

FORMAT = "shardboard.incident"
VERSION = 1

README, MANIFEST = "README.txt", "manifest.json"
REQUEST, RUN, PLAN, VERSIONS, NODES, EVENTS = (
    "request.json", "run.json", "plan.json", "versions.json", "nodes.json", "events.jsonl"
)  # fmt: skip
LOGS = "logs/"
CONTROLLER_LOG = f"{LOGS}controller.log"

TokenId = Annotated[int, Meta(ge=0, lt=2**31)]


class FileEntry(Struct, frozen=True, kw_only=True):
    """A file of the bundle as it was when the bundle was made. `sha256` in hexadecimal."""

    name: str
    bytes: int
    sha256: str


class Manifest(Struct, frozen=True, kw_only=True):
    """Says what the bundle is and names every other file in it."""

    format: Literal["shardboard.incident"] = "shardboard.incident"
    version: int = VERSION
    created_at: datetime
    shardboard: str
    """The version of the program that made it."""
    request: int
    files: tuple[FileEntry, ...]


class BundledRequest(Struct, frozen=True, kw_only=True):
    """What is needed to run the request again, and what it brought.

    `parameters` are those of `app.inference.parameters`; `seed` and `stop` stand there too and are here for the reader.
    """

    id: int
    model: str
    content: str = ""
    """A hash over the model's weights; empty when it was not known."""
    status: str
    finish_reason: str | None
    kept: bool
    """False when the settings said that texts and tokens are not kept: then there are none here."""
    parameters: dict[str, Any]
    seed: int | None
    stop: tuple[str, ...]
    prompt_token_ids: tuple[TokenId, ...]
    token_ids: tuple[TokenId, ...]

    @property
    def is_complete(self) -> bool:
        """Whether it came to its own end: the end of the text, or as many tokens as were asked for."""
        return self.status == "completed"


class SoftwareThen(Struct, frozen=True, kw_only=True):
    """The controller's software when the request ran, where that was recorded, and when the bundle was made."""

    run: Versions | None
    bundle: Versions


class Contents(Struct, frozen=True, kw_only=True):
    """All that a bundle tells. `logs` by the name of the file."""

    request: BundledRequest
    run: Run
    plan: Plan | None
    versions: SoftwareThen
    nodes: tuple[NodeFacts, ...]
    events: tuple[RunEvent, ...]
    logs: dict[str, str]
