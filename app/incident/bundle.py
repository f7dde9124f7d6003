"""The incident bundle of one request: one zip that a person can read and that `replay` can run again.

Made from what the controller knows; read back as what a stranger may have made: bounded, checked file by file against
the manifest, decoded into types.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from app.atomic_file import unwritable, write_atomically
from app.errors import BadInput, RequestError
from app.incident.archive import MAX_ARCHIVE_BYTES, read_archive, write_archive
from app.incident.contents import (
    EVENTS,
    FORMAT,
    LOGS,
    MANIFEST,
    NODES,
    PLAN,
    README,
    REQUEST,
    RUN,
    VERSION,
    VERSIONS,
    BundledRequest,
    Contents,
    FileEntry,
    Manifest,
    SoftwareThen,
)
from app.incident.gathering import gather
from app.incident.readme import readme
from app.inference.parameters import GenerationParameters
from app.runs.run import VERSION as RUN_VERSION
from app.runs.run import Run, RunEvent
from app.runs.trace import VERSION as TRACE_VERSION
from app.runs.trace import NodeFacts, Plan
from worker_agent import __version__

if TYPE_CHECKING:
    from app.controller import Controller  # slow to load, and --help does without

Decoded = TypeVar("Decoded")
_NUMBERS = re.compile(rb"\[\n\s+(-?[\d.eE+-]+(?:,\n\s+-?[\d.eE+-]+)*)\n\s*\]")
_ADVICE = "Get the bundle again from where it came."


async def make_bundle(controller: Controller, request_id: int) -> bytes:
    """The bundle of a request, over or under way.

    Agents that are away leave a remark instead of their log. Raises RegistryError when there is no such request,
    BadInput when it has more to tell than a bundle can hold.
    """
    contents = await gather(controller, request_id)
    return await asyncio.to_thread(_pack, contents)


async def write_bundle(controller: Controller, request_id: int, path: Path) -> Path:
    """Make a bundle and write it to a file, replacing what is there. Raises BadInput when it cannot be written."""
    data = await make_bundle(controller, request_id)
    await asyncio.to_thread(save_bundle, data, path)
    return path


def save_bundle(data: bytes, path: Path) -> None:
    """Raises DiskFullError, or BadInput saying why the file cannot be written."""
    try:
        write_atomically(path, data)
    except OSError as error:
        raise unwritable(path, error) from error


def _pack(contents: Contents) -> bytes:
    files: dict[str, bytes] = {REQUEST: _json(contents.request), RUN: _json(contents.run)}
    if contents.plan is not None:
        files[PLAN] = _json(contents.plan)
    files |= {
        VERSIONS: _json(contents.versions),
        NODES: _json(contents.nodes),
        EVENTS: msgspec.json.Encoder().encode_lines(contents.events),
        **{name: text.encode("utf-8", "replace") for name, text in sorted(contents.logs.items())},
    }
    files = {README: readme(contents, tuple(files)).encode(), **files}
    manifest = Manifest(
        created_at=datetime.now(UTC),
        shardboard=__version__,
        request=contents.request.id,
        files=tuple(
            FileEntry(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in files.items()
        ),
    )
    first = files.pop(README)
    return write_archive({README: first, MANIFEST: _json(manifest), **files})


def _json(value: Any) -> bytes:
    """Indented for people, but lists of numbers, such as token ids, on one line each."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2)
    # No line break stands inside a text of JSON, so nothing but lists can match.
    return _NUMBERS.sub(lambda found: b"[" + b" ".join(found[1].split()) + b"]", text) + b"\n"


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and found sound: every file is the one that its manifest names."""

    manifest: Manifest
    contents: Contents
    parameters: GenerationParameters

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Raises BadInput saying what is wrong with the file."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_ARCHIVE_BYTES + 1)
        except OSError as error:
            raise BadInput(f"{path} cannot be read: {error.strerror}.") from error
        return cls.read(data)

    @classmethod
    def read(cls, data: bytes) -> Bundle:
        """From the bytes of a zip. Raises BadInput."""
        files = read_archive(data)
        manifest = _manifest(files)
        _check_files(manifest, files)
        run = _decode(files, RUN, Run)
        _check_version(RUN, run.version, RUN_VERSION)
        if run.trace is not None:
            _check_version(RUN, run.trace.version, TRACE_VERSION)
        contents = Contents(
            request=_decode(files, REQUEST, BundledRequest),
            run=run,
            plan=_decode(files, PLAN, Plan) if PLAN in files else None,
            versions=_decode(files, VERSIONS, SoftwareThen),
            nodes=_decode(files, NODES, tuple[NodeFacts, ...]),
            events=_decode_lines(files),
            logs={name: content.decode("utf-8", "replace") for name, content in files.items() if name.startswith(LOGS)},
        )
        return cls(manifest, contents, _parameters(contents.request))

    @property
    def request(self) -> BundledRequest:
        return self.contents.request

    def check_replayable(self) -> None:
        """Raises RequestError saying why there is nothing to run again, or nothing to compare with."""
        request = self.request
        if not request.kept:
            raise RequestError(
                f"Request {request.id} cannot be replayed: its prompt and its tokens were not kept.",
                "The settings say so (records.keep_text); it holds for requests made from then on.",
            )
        if not request.prompt_token_ids:
            raise RequestError(
                f"Request {request.id} cannot be replayed: it ended before its prompt was turned into tokens.",
                self.contents.run.error or "",
            )
        if not request.token_ids:
            raise RequestError(
                f"Request {request.id} brought no token, so there is nothing to compare.",
                self.contents.run.error or "",
            )


def _manifest(files: Mapping[str, bytes]) -> Manifest:
    """Read in two steps: a later version may have another form."""
    if MANIFEST not in files:
        raise BadInput(f"This is no incident bundle: it has no {MANIFEST}.", "Make one with: bundle REQUEST_ID")
    head = _decode(files, MANIFEST, _Head)
    if head.format != FORMAT:
        raise BadInput(f"This is no incident bundle: its {MANIFEST} says {head.format[:60]!r}.")
    _check_version(MANIFEST, head.version, VERSION)
    return _decode(files, MANIFEST, Manifest)


class _Head(msgspec.Struct, frozen=True):
    format: str
    version: int


def _check_version(name: str, found: int, known: int) -> None:
    if found > known:
        raise BadInput(
            f"The bundle was made by a newer Shardboard: {name} has version {found}, and this program reads up to "
            f"{known}.",
            "Update Shardboard.",
        )
    if found < 1:
        raise BadInput(f"{name} in the bundle says version {found}, which never was.", _ADVICE)


def _check_files(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    listed = {entry.name: entry for entry in manifest.files}
    there = set(files) - {MANIFEST}
    for name in sorted(there - set(listed)):
        raise BadInput(f"The bundle holds {name}, which its manifest does not name.", _ADVICE)
    for name in sorted(set(listed) - there):
        raise BadInput(f"The bundle lacks {name[:80]!r}, which its manifest names.", _ADVICE)
    for name, entry in listed.items():
        if len(files[name]) != entry.bytes or hashlib.sha256(files[name]).hexdigest() != entry.sha256:
            raise BadInput(f"{name} in the bundle was changed since the bundle was made: its hash is another.", _ADVICE)


def _decode(files: Mapping[str, bytes], name: str, type: type[Decoded]) -> Decoded:
    if name not in files:
        raise BadInput(f"The bundle lacks {name}.", _ADVICE)
    try:
        return msgspec.json.decode(files[name], type=type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{name} in the bundle cannot be read: {error}.", _ADVICE) from error


def _decode_lines(files: Mapping[str, bytes]) -> tuple[RunEvent, ...]:
    if EVENTS not in files:
        raise BadInput(f"The bundle lacks {EVENTS}.", _ADVICE)
    try:
        return tuple(msgspec.json.Decoder(RunEvent).decode_lines(files[EVENTS]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{EVENTS} in the bundle cannot be read: {error}.", _ADVICE) from error


def _parameters(request: BundledRequest) -> GenerationParameters:
    try:
        # What an older version did not know was neutral, whatever the model's own defaults are now.
        parameters = GenerationParameters.from_json(request.parameters).resolved()
    except RequestError as error:
        raise BadInput(f"{REQUEST} in the bundle cannot be used. {error.message}", _ADVICE) from error
    if (parameters.seed, parameters.text_rules().stops) != (request.seed, request.stop):
        raise BadInput(f"{REQUEST} in the bundle contradicts itself about seed or stop.", _ADVICE)
    return parameters


__all__ = ["Bundle", "make_bundle", "save_bundle", "write_bundle"]
