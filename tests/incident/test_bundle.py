"""What is in a bundle, what is not, and what a stranger's zip is told."""

from __future__ import annotations

import errno
import io
import json
import math
import re
import struct
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.controller_settings import ControllerSettings, RecordSettings
from app.errors import BadInput, DiskFullError, RegistryError, RequestError
from app.incident.archive import MAX_FILES, MAX_TOTAL_BYTES
from app.incident.bundle import Bundle, make_bundle, write_bundle
from app.incident.contents import MANIFEST, README, REQUEST, RUN
from app.registry import EventLevel, RequestRecord
from app.runs.trace import RequestTrace, TokenLogprob, pack, unpack
from tests.e2e.conftest import System
from tests.incident.conftest import MODEL, bundled, files_of, forged, sealed
from tests.waiting import wait_until

PROMPT = "The quick brown fox"


@pytest.fixture(scope="module")
def record(pair: System) -> RequestRecord:
    answered = pair.answer(MODEL, PROMPT, max_tokens=12, temperature=0.7, seed=7, stop=("§",), ignore_eos=True)
    assert answered.error is None
    return answered


@pytest.fixture(scope="module")
def data(pair: System, record: RequestRecord) -> bytes:
    return bundled(pair, record)


def test_a_bundle_tells_all_of_its_request(data: bytes, record: RequestRecord, pair: System) -> None:
    opened = Bundle.read(data)
    request, contents = opened.request, opened.contents
    assert (request.id, request.model, request.status, request.kept) == (record.id, MODEL, "completed", True)
    assert (request.seed, request.stop, opened.parameters.temperature) == (7, ("§",), 0.7)
    assert (request.prompt_token_ids, request.token_ids) == (record.prompt_token_ids, record.token_ids)
    assert contents.run.request is not None
    kept = pair.controller.registry.requests.get(record.id)  # a zero byte, which no database takes, is replaced there
    assert (contents.run.request.prompt, contents.run.request.result) == (PROMPT, kept.result)
    assert contents.plan is not None
    assert [(stage.start, stage.end) for stage in contents.plan.stages] == [(0, 3), (3, 7)]
    assert [node.name for node in contents.nodes] == [node.hostname for node in pair.nodes]
    assert contents.versions.run is not None
    assert len(contents.run.request_trace.tokens) == 12  # type: ignore[union-attr]
    assert set(contents.logs) == {f"logs/{node.hostname}.log" for node in pair.nodes} | {"logs/controller.log"}
    assert all(contents.logs.values())


def test_a_person_can_read_it(data: bytes, record: RequestRecord) -> None:
    files = files_of(data)
    assert list(files)[:2] == [README, MANIFEST]
    text = files[README].decode()
    assert "holds the prompt and the answer" in text
    assert f"replay incident-{record.id}.zip" in text
    for name in set(files) - {README}:
        assert name in text
    assert json.dumps(list(record.token_ids)).encode() in files[REQUEST], "token ids stand on one line"
    assert json.loads(files[RUN])["format"] == "shardboard.run"


def test_the_same_request_gives_the_same_files(pair: System, data: bytes, record: RequestRecord) -> None:
    first, second = files_of(data), files_of(bundled(pair, record))
    same = {name for name in first if not name.startswith("logs/")} - {MANIFEST}
    assert list(first) == list(second)
    assert {name: first[name] for name in same} == {name: second[name] for name in same}


def test_no_secret_and_no_home_leaves_with_it(
    pair: System, record: RequestRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = pair.controller
    secrets = [controller.identity.keys.secret]
    for key in pair.home.agents.rglob("*.key"):
        secrets += re.findall(r"\S{40}", key.read_text())
    assert len(secrets) == 3
    monkeypatch.setenv("HOME", "/srv/people/berta")
    said = (
        f"read {pair.home.root}/x, {pair.home.models}/y, /srv/people/berta/z, /home/alice/w, /Users/bob/v, "
        rf"C:\Users\carol\u; sb-{'a' * 32} hf_{'b' * 30}; password=correcthorse; Bearer {'c' * 20}; "
        f"postgresql://me:hidden@db/x; {secrets[0]}"
    )
    controller.registry.events.add(
        EventLevel.WARNING, "test", said, request_id=record.id, details={"nested": [{"said": said}]}
    )
    (pair.home.logs / "controller.log").write_text(f"{datetime.now():%Y-%m-%d %H:%M:%S},000 INFO {said}\n")
    # Events of a run are those until its end, so it has to be one that ends after them.
    run = pair.begin(MODEL, PROMPT, max_tokens=3000, ignore_eos=True)
    controller.registry.events.add(
        EventLevel.WARNING, "test", said, request_id=run.id, details={"nested": [{"said": said}]}
    )
    pair.run(run.cancel())
    data = bundled(pair, run.record)
    everything = b"\n".join(files_of(data).values()).decode()
    assert everything.count("nested") == 2, "run.json and events.jsonl have the event"
    assert "read <home>/x, <models>/y, ~/z, ~/w, ~/v" in Bundle.read(data).contents.logs["logs/controller.log"]
    for private in (
        *secrets, str(pair.home.root), "berta", "alice", "/bob", "carol", "a" * 32, "b" * 30, "correcthorse", "c" * 20,
        "hidden",
    ):  # fmt: skip
        assert private not in everything, private
    assert Bundle.read(data).contents.run.request.prompt == PROMPT  # type: ignore[union-attr]


@pytest.fixture
def forgetful(pair: System) -> Iterator[System]:
    before = pair.controller.settings
    pair.run(pair.controller.change_settings(ControllerSettings(records=RecordSettings(keep_text=False))))
    yield pair
    pair.run(pair.controller.change_settings(before))


def test_without_kept_texts_there_is_a_bundle_and_no_replay(forgetful: System) -> None:
    answered = forgetful.answer(MODEL, PROMPT, max_tokens=12, logprobs=1, prompt_logprobs=1)
    opened = Bundle.read(bundled(forgetful, answered))
    assert opened.request.token_ids == opened.request.prompt_token_ids == ()
    assert opened.contents.run.request_trace is not None
    assert opened.contents.run.request_trace.logprobs == ()
    with pytest.raises(RequestError, match=r"not kept.*keep_text"):
        opened.check_replayable()
    # The same when nothing but the row is left, and the setting is another one now.
    forgetful.controller.registry.traces.remove("request", str(answered.id))
    forgetful.run(forgetful.controller.change_settings(ControllerSettings()))
    with pytest.raises(RequestError, match=r"not kept.*keep_text"):
        Bundle.read(bundled(forgetful, answered)).check_replayable()


def test_what_a_request_began_with_decides_what_is_kept_of_it(forgetful: System) -> None:
    run = forgetful.begin(MODEL, PROMPT, max_tokens=3000, ignore_eos=True, logprobs=1)
    try:
        wait_until(lambda: len(run.token_ids) > 3)
        forgetful.run(forgetful.controller.change_settings(ControllerSettings()))
        opened = Bundle.read(bundled(forgetful, run.record))
        assert not opened.request.kept and opened.request.token_ids == ()
        assert opened.contents.run.request is not None and opened.contents.run.request.result == ""
        assert opened.contents.run.request_trace is not None and opened.contents.run.request_trace.logprobs == ()
        assert opened.contents.run.request_trace.tokens, "times tell nothing of the text"
    finally:
        forgetful.run(run.cancel())


def test_a_token_that_could_not_come_has_a_log_probability_that_can_be_read_back(pair: System) -> None:
    never, least = 5, -100.0
    answered = pair.answer(MODEL, PROMPT, max_tokens=3, logprobs=2, ignore_eos=True)
    trace = unpack(pair.controller.registry.traces.get("request", str(answered.id)) or b"")
    assert isinstance(trace, RequestTrace) and len(trace.logprobs) == 3
    gone = TokenLogprob(never, -math.inf, ((never, -math.inf), (6, least)))
    changed = msgspec.structs.replace(trace, logprobs=(gone, *trace.logprobs[1:]))
    pair.controller.registry.traces.put("request", str(answered.id), pack(changed))
    read = Bundle.read(bundled(pair, answered)).contents.run.request_trace
    assert read is not None and read.logprobs[0] == TokenLogprob(never, -9999.0, ((never, -9999.0), (6, least)))


def test_a_request_that_never_became_tokens_cannot_be_replayed(pair: System) -> None:
    failed = pair.answer(MODEL, [3, 40_000])
    assert failed.error is not None
    run = forged(bundled(pair, failed), REQUEST, lambda request: request.update(prompt_token_ids=[]))
    with pytest.raises(RequestError, match=r"before its prompt was turned into tokens"):
        Bundle.read(run).check_replayable()
    with pytest.raises(RequestError, match=r"brought no token.*outside the vocabulary"):
        Bundle.read(bundled(pair, failed)).check_replayable()


def test_a_request_that_never_was_is_named(pair: System) -> None:
    with pytest.raises(RegistryError, match="99999"):
        pair.run(make_bundle(pair.controller, 99_999))


def test_it_is_written_to_a_file_and_opened_from_there(pair: System, record: RequestRecord, tmp_path: Path) -> None:
    path = pair.run(write_bundle(pair.controller, record.id, tmp_path / "x.zip"))
    assert Bundle.open(path).request.token_ids == record.token_ids
    with pytest.raises(BadInput, match="cannot be written"):
        pair.run(write_bundle(pair.controller, record.id, tmp_path / "missing" / "x.zip"))
    with pytest.raises(BadInput, match="cannot be read"):
        Bundle.open(tmp_path / "missing.zip")

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as full:
        full.setattr("app.atomic_file.os.fsync", refuse)
        with pytest.raises(DiskFullError, match=r"The disk is full: .*y.zip could not be written"):
            pair.run(write_bundle(pair.controller, record.id, tmp_path / "y.zip"))


# --- zips that a stranger made ---------------------------------------------------------------------------


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/passwd", "logs/../../evil.log", "logs\\evil.log", "C:evil", "logs/deep/er.log", "a\nb", "x" * 300,
     "-rf", ".hidden", "logs/"],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(data: bytes, name: str) -> None:
    with pytest.raises(BadInput, match="names a file"):
        Bundle.read(zipped({**files_of(data), name: b"x"}))


def test_a_name_behind_a_zero_byte_is_seen(data: bytes) -> None:
    hidden = zipped({**files_of(data), "okayX.txt": b"x"}).replace(b"okayX.txt", b"okay\0.txt")
    with pytest.raises(BadInput):
        Bundle.read(hidden)


def test_a_bomb_is_refused_before_it_is_unpacked(data: bytes) -> None:
    large = zipped({**files_of(data), "zeros.txt": bytes(MAX_TOTAL_BYTES // 2 + 1)})
    assert len(large) < 1_000_000
    with pytest.raises(BadInput, match="unpacks to"):
        Bundle.read(large)
    many = zipped({**files_of(data), **{f"zeros{n}.txt": bytes(MAX_TOTAL_BYTES // 3) for n in range(3)}})
    with pytest.raises(BadInput, match="unpacks to more than"):
        Bundle.read(many)


def test_a_bomb_that_says_it_is_small_is_refused(data: bytes) -> None:
    size = 5_000_000
    honest = zipped({**files_of(data), "zeros.txt": bytes(size)})
    assert honest.count(struct.pack("<I", size)) == 2
    with pytest.raises(BadInput, match=r"damaged|not as long"):
        Bundle.read(honest.replace(struct.pack("<I", size), struct.pack("<I", 10)))


def test_thousands_of_names_are_refused(data: bytes) -> None:
    with pytest.raises(BadInput, match=f"more than {MAX_FILES} files"):
        Bundle.read(zipped({**files_of(data), **{f"n{n}": b"" for n in range(MAX_FILES)}}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(data: bytes) -> None:
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("Request.json", b"{}")
    with pytest.raises(BadInput, match="same name twice"):
        Bundle.read(buffer.getvalue())


def test_an_encrypted_entry_is_refused(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entry = archive.getinfo(RUN)
    marked = bytearray(data)
    directory = data.rindex(RUN.encode())
    marked[directory - 46 + 8] |= 1
    assert entry.flag_bits & 1 == 0
    with pytest.raises(BadInput, match="encrypted"):
        Bundle.read(bytes(marked))


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x05\x06" + bytes(18), b"PK\x03\x04" * 1000])
def test_what_is_no_zip_or_holds_nothing_is_no_bundle(content: bytes) -> None:
    with pytest.raises(BadInput, match="no incident bundle"):
        Bundle.read(content)


def test_a_cut_off_download_is_no_bundle(data: bytes) -> None:
    for end in (len(data) // 3, len(data) - 30):
        with pytest.raises(BadInput):
            Bundle.read(data[:end])


def test_any_flipped_byte_is_noticed_or_harmless(data: bytes) -> None:
    whole = Bundle.read(data)
    for position in range(0, len(data), max(1, len(data) // 150)):
        damaged = bytearray(data)
        damaged[position] ^= 0x41
        try:
            found = Bundle.read(bytes(damaged))
        except BadInput:
            continue
        assert found == whole, "a byte that means nothing, such as a date in the zip's directory"


def test_a_changed_file_no_longer_fits_its_hash(data: bytes) -> None:
    files = files_of(data)
    with pytest.raises(BadInput, match=r"request\.json in the bundle was changed"):
        Bundle.read(zipped({**files, REQUEST: files[REQUEST].replace(b"completed", b"cancelled")}))


def test_files_that_are_missing_or_not_named_are_told(data: bytes) -> None:
    files = files_of(data)
    with pytest.raises(BadInput, match=r"lacks 'versions\.json'"):
        Bundle.read(zipped({name: content for name, content in files.items() if name != "versions.json"}))
    with pytest.raises(BadInput, match="does not name"):
        Bundle.read(zipped({**files, "extra.txt": b"x"}))
    with pytest.raises(BadInput, match=r"lacks run\.json"):
        Bundle.read(sealed({name: content for name, content in files.items() if name != RUN}))


def test_a_bundle_of_a_newer_program_says_so(data: bytes) -> None:
    manifest = msgspec.json.decode(files_of(data)[MANIFEST], type=dict[str, Any])
    later = msgspec.json.encode({"format": manifest["format"], "version": 2, "shape": "unknown"})
    with pytest.raises(BadInput, match=r"newer Shardboard: manifest.json has version 2.*Update"):
        Bundle.read(zipped({**files_of(data), MANIFEST: later}))
    with pytest.raises(BadInput, match=r"newer Shardboard: run.json has version 9"):
        Bundle.read(forged(data, RUN, lambda run: run.update(version=9)))
    other = msgspec.json.encode({"format": "another.thing", "version": 1})
    with pytest.raises(BadInput, match=r"says 'another\.thing'"):
        Bundle.read(zipped({**files_of(data), MANIFEST: other}))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda request: request.update(token_ids=["a"]), "token_ids"),
        (lambda request: request.update(token_ids="1,2"), "token_ids"),
        (lambda request: request["parameters"].update(temperature=-5), "temperature"),
        (lambda request: request["parameters"].update(novel=1), "novel"),
        (lambda request: request.update(seed=8), "contradicts itself"),
        (lambda request: request.update(prompt_token_ids=[-1]), "prompt_token_ids"),
    ],
)
def test_values_that_cannot_be_are_told(data: bytes, change: Any, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        Bundle.read(forged(data, REQUEST, change))


def test_nesting_without_end_is_refused(data: bytes) -> None:
    files = files_of(data)
    deep = b'{"at":"2026-01-01T00:00:00Z","level":"info","source":"","message":"","details":{"a":' + b"[" * 100_000
    with pytest.raises(BadInput, match=r"events\.jsonl"):
        Bundle.read(sealed({**files, "events.jsonl": deep}))


def test_times_in_a_bundle_know_their_zone(data: bytes) -> None:
    opened = Bundle.read(data)
    assert opened.manifest.created_at.astimezone(UTC) <= datetime.now(UTC)
    assert opened.contents.run.created_at.tzinfo is not None
