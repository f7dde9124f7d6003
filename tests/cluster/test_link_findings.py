"""What is said of a link fits what was found of it: the cause, the remedy, what has changed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from app.cluster.link_findings import LinkFinding, drift_text, findings_of
from app.registry import LinkRecord, NodeRecord

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def a_node(number: int, name: str, address: str) -> NodeRecord:
    return NodeRecord(number, name, address, 7600, f"key{number}", "", True, False, None, {}, None, NOON, NOON)


STUDIO, LAPTOP = a_node(1, "studio", "192.168.1.20"), a_node(2, "laptop", "192.168.1.30")


def a_link(
    outcome: str = "measured", source: int = 1, target: int = 2, id: int = 1, detail: str = "",
    rtt: float | None = 0.001, jitter: float | None = 0.0001, clock: float | None = 0.0,
    rate: float | None = 110e6, segment: int | None = 1448,
) -> LinkRecord:  # fmt: skip
    if outcome != "measured":
        rtt = jitter = clock = rate = None
    return LinkRecord(id, source, target, outcome, detail, rtt, rtt, jitter, clock, rate, segment, NOON)


def found(*links: LinkRecord, nodes: tuple[NodeRecord, ...] = (STUDIO, LAPTOP)) -> LinkFinding:
    return findings_of(links, nodes)[0]


def test_of_a_good_link_there_is_nothing_to_say() -> None:
    good = found(a_link())
    assert (good.problem, good.advice, good.drift, good.source, good.target) == ("", "", "", "studio", "laptop")


@pytest.mark.parametrize(
    ("link", "cause", "remedy"),
    [
        (a_link("silent"), "dropped on the way", "Allow TCP port 7600 from 192.168.1.20 in the firewall of laptop"),
        (a_link("refused"), "refuses the connection", "Allow TCP port 7600 from 192.168.1.20"),
        (a_link("name"), "cannot find out what address", "by its IP address"),
        (a_link("unreachable", detail="No route to host"), "no way to 192.168.1.30 (No route to host)", "VPN"),
        (a_link("wrong_key"), "another agent than laptop", "its own address"),
        (a_link("not_trusted"), "does not let studio in", "restart the agent of laptop"),
        (a_link("no_agent"), "does not answer as an agent", "frozen"),
        (a_link("large_lost"), "short messages pass and long ones are lost", "packets of 1488 bytes"),
        (a_link("lost", detail="the connection was lost"), "stood and broke off", "cable"),
        (a_link(jitter=0.004), "differ by 4 ms", "cable instead of Wi-Fi"),
        (a_link(rate=2e6), "2 MB/s from studio to laptop", "faster line"),
        (a_link(rtt=0.045), "takes 45 ms", "VPN"),
        (a_link(clock=-90.0), "1 min 30 s behind that of studio", "NTP"),
    ],
    ids=lambda value: value.outcome if isinstance(value, LinkRecord) else None,
)  # fmt: skip
def test_each_cause_has_its_own_sentence_and_remedy(link: LinkRecord, cause: str, remedy: str) -> None:
    finding = found(link)
    assert cause in finding.problem
    assert remedy in finding.advice


def test_a_way_that_works_back_names_the_side_that_blocks() -> None:
    there, back = a_link("silent"), a_link(source=2, target=1, id=2)
    assert "it is laptop's side" in found(there, back).problem
    assert "side" not in found(there, a_link("silent", source=2, target=1, id=2)).problem


def test_an_address_of_one_machine_alone_is_named_as_the_cause() -> None:
    local = a_node(2, "laptop", "127.0.0.1")
    finding = found(a_link("refused"), nodes=(STUDIO, local))
    assert "only its own machine reaches" in finding.problem and "by its address in the network" in finding.advice


def test_what_has_changed_is_told_with_both_figures_and_when() -> None:
    before, now = a_link(rtt=0.012, id=1), a_link(rtt=0.055, id=2)
    text = found(now, before).drift
    assert text.startswith("Round trip 12 ms when measured at ") and text.endswith("55 ms now.")
    assert "Bandwidth 110 MB/s" in drift_text(a_link(), a_link(rate=11e6))


def test_what_comes_and_goes_is_no_drift() -> None:
    assert drift_text(a_link(rtt=0.0004), a_link(rtt=0.0011)) == ""
    assert drift_text(a_link(rate=100e6), a_link(rate=60e6)) == ""


def test_a_failure_between_does_not_hide_what_was_measured_before_it() -> None:
    newest, failed, oldest = a_link(rtt=0.055, id=3), a_link("silent", id=2), a_link(rtt=0.012, id=1)
    assert "12 ms" in found(newest, failed, oldest).drift


def test_links_of_nodes_that_are_gone_are_left_out() -> None:
    assert findings_of([a_link()], [STUDIO]) == []
