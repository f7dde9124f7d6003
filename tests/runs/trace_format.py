"""The rules of the JSON Trace Event Format, as far as its readers rely on them."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

PHASES = {"M", "X", "i", "s", "t", "f"}
META = {
    "process_name": "name",
    "thread_name": "name",
    "process_sort_index": "sort_index",
    "thread_sort_index": "sort_index",
}


def checked(data: bytes) -> list[dict[str, Any]]:
    """The events of a trace. Fails where a rule is broken."""
    trace = json.loads(data)
    assert set(trace) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    events: list[dict[str, Any]] = trace["traceEvents"]
    named: dict[str, set[object]] = defaultdict(set)
    for event in events:
        assert event["ph"] in PHASES, event
        assert all(type(event[name]) is int for name in ("pid", "tid", "ts")), event
        assert isinstance(event["name"], str)
        assert event["ts"] >= 0
        assert event["ts"] < 2**53, "JavaScript's numbers are not exact beyond"
        if event["ph"] == "M":
            assert META[event["name"]] in event["args"], event
            key = event["pid"] if event["name"].startswith("process") else (event["pid"], event["tid"])
            assert key not in named[event["name"]], f"named twice: {event}"
            named[event["name"]].add(key)
        else:
            assert isinstance(event["cat"], str)
            # A name must stand before what it names: some readers show the number otherwise.
            assert event["pid"] in named["process_name"], f"a process without a name: {event}"
            assert (event["pid"], event["tid"]) in named["thread_name"], f"a track without a name: {event}"
        if event["ph"] == "X":
            assert type(event["dur"]) is int
            assert event["dur"] >= 0, event
            assert isinstance(event["args"], dict)
        if event["ph"] == "i":
            assert event["s"] in "gpt", event
    _check_nesting(events)
    _check_flows(events)
    return events


def _check_nesting(events: list[dict[str, Any]]) -> None:
    """Of one track, slices lie within each other or apart; readers drop or misplace what overlaps in part."""
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append((event["ts"], -event["dur"]))
    for slices in tracks.values():
        open_until: list[int] = []
        for began, negative in sorted(slices):
            while open_until and open_until[-1] <= began:
                open_until.pop()
            assert not open_until or began - negative <= open_until[-1], "slices overlap in part"
            open_until.append(began - negative)


def _check_flows(events: list[dict[str, Any]]) -> None:
    """An arrow begins once, ends once, goes forwards in time, and each of its points lies in a slice."""
    flows = defaultdict(list)
    slices = defaultdict(list)
    for event in events:
        if event["ph"] in "stf":
            flows[event["id"]].append(event)
        elif event["ph"] == "X":
            slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for points in flows.values():
        assert [point["ph"] for point in points] == ["s", *["t"] * (len(points) - 2), "f"]
        assert [point["ts"] for point in points] == sorted(point["ts"] for point in points)
        assert points[-1]["bp"] == "e"
        for point in points:
            within = slices[point["pid"], point["tid"]]
            assert any(began <= point["ts"] < ended for began, ended in within), f"an arrow from nowhere: {point}"
