"""What there is to say of measured links: figures in words, what is wrong, what to do about it, what has changed.

Pure: records in, findings out. How they are measured is the agents' matter, when and which the job's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.figures import clock, data_rate, duration
from app.registry.records import LinkRecord, NodeRecord

DRIFT = 2.0
"""A figure has changed when it is so many times what it was, or so many times less."""
DRIFT_SECONDS = 0.002
"""Round trips that differ by less have not changed: that much comes and goes with what else the machines do."""
SLOW_BYTES = 12.5e6
"""A hundred megabit line: prompts are held up by it."""
LONG_RTT = 0.02
"""From here on a token waits longer for the way than small models need for it."""
UNSTEADY = 0.5
"""Jitter, as a share of the round trip, from which on a link is called unsteady."""
CLOCKS_APART = 2.0
"""Seconds by which clocks may differ before it is said."""
HEADERS = 40
"""Bytes of IPv4 and TCP headers: what an MTU is larger than a segment."""


@dataclass(frozen=True)
class LinkFinding:
    """One direction of a link between two nodes, as it was measured last."""

    link: LinkRecord
    source: str
    """The nodes' names."""
    target: str
    problem: str
    """What is wrong, in a sentence; empty where nothing is."""
    advice: str
    drift: str
    """What has changed since it was measured before; empty where nothing has, or it never was."""


def findings_of(links: Sequence[LinkRecord], nodes: Sequence[NodeRecord]) -> list[LinkFinding]:
    """Of the newest measurement of each direction, in the order of the nodes.

    Args:
        links: the newest first, several of one direction among them.
    """
    known = {node.id: node for node in nodes}
    history: dict[tuple[int, int], list[LinkRecord]] = {}
    for link in links:
        if link.source_id in known and link.target_id in known:
            history.setdefault((link.source_id, link.target_id), []).append(link)
    latest = {pair: records[0] for pair, records in history.items()}
    found = []
    for source_id, target_id in sorted(history):
        link, *before = history[source_id, target_id]
        source, target = known[source_id], known[target_id]
        back = latest.get((target_id, source_id))
        problem, advice = _problem(link, source, target, back is not None and back.is_measured)
        earlier = next((each for each in before if each.is_measured), None)
        drift = "" if earlier is None else drift_text(earlier, link)
        found.append(LinkFinding(link, source.hostname, target.hostname, problem, advice, drift))
    return found


def drift_text(before: LinkRecord, now: LinkRecord) -> str:
    """12 ms when measured on 2026-03-01 12:00:00, 55 ms now; empty where both are about the same, or one is unknown."""
    pieces = []
    when = f"when measured at {clock(before.created_at)}"
    if before.rtt and now.rtt and abs(before.rtt - now.rtt) > DRIFT_SECONDS and _differs(before.rtt, now.rtt):
        pieces.append(f"Round trip {duration(before.rtt)} {when}, {duration(now.rtt)} now.")
    one, other = before.bytes_per_second, now.bytes_per_second
    if one and other and _differs(one, other):
        pieces.append(f"Bandwidth {data_rate(one)} {when}, {data_rate(other)} now.")
    return " ".join(pieces)


def _differs(one: float, other: float) -> bool:
    return max(one, other) > DRIFT * min(one, other)


def _problem(link: LinkRecord, source: NodeRecord, target: NodeRecord, way_back: bool) -> tuple[str, str]:
    """What is wrong, and what to do; both empty where nothing is.

    Args:
        way_back: whether the other direction was measured, so that both agents and the network between them work.
    """
    if link.is_measured:
        return _weakness(link, source, target)
    here, there = source.hostname, target.hostname
    host, port = target.ip_address, target.port
    if target.is_loopback and source.machine != target.machine:
        return (
            f"{there} is known by {host}, an address that only its own machine reaches.",
            f"Add {there} once more by its address in the network (node add), with its agent listening there.",
        )
    works = f" The other direction works, so it is {there}'s side that does not let it through." if way_back else ""
    rule = (
        f"Allow TCP port {port} from {source.ip_address} in the firewall of {there}'s machine "
        f"(Linux with ufw: ufw allow proto tcp from {source.ip_address} to any port {port}; Windows: an inbound rule)."
    )
    match link.outcome:
        case "name":
            return (
                f"{here} cannot find out what address {host} is.",
                f"Add {there} by its IP address, or enter the name in the hosts file of {here}'s machine.",
            )
        case "refused":
            return (
                f"{here} reaches {host}, where port {port} refuses the connection.{works}",
                f"{rule} If nothing listens there, {there} is known by the address of another machine: add it anew.",
            )
        case "silent":
            return f"{here} gets no answer from {host}, port {port}: what it sends is dropped on the way.{works}", rule
        case "unreachable":
            return (
                f"{here} has no way to {host} ({link.detail}).",
                f"Bring both machines into one network or VPN, and add {there} by its address there.",
            )
        case "not_trusted":
            return (
                f"{there} does not let {here} in, though it was told to.",
                f"Measure again; if it stays so, restart the agent of {there}.",
            )
        case "wrong_key":
            return (
                f"At {host}, port {port}, {here} finds another agent than {there}.",
                "Two machines answer to one address, or a router leads to another one: give each its own address, and "
                f"add {there} by one that means the same machine from everywhere.",
            )
        case "no_agent":
            return (
                f"At {host}, port {port}, something takes {here}'s connection and does not answer as an agent.",
                f"Look whether the agent of {there} is frozen, or whether a proxy or another program has that port.",
            )
        case "large_lost":
            return f"From {here} to {there} short messages pass and long ones are lost.", _mtu_advice(link, here)
    return (
        f"The connection from {here} to {there} stood and broke off ({link.detail}).",
        f"Look at cable or Wi-Fi between them, and at the log of {there}'s agent.",
    )


def _mtu_advice(link: LinkRecord, here: str) -> str:
    believed = ""
    if link.segment_bytes:
        believed = f"{here} believes in packets of {link.segment_bytes + HEADERS} bytes, which the way drops unsaid. "
    return (
        f"{believed}Lower the MTU of its network interface or VPN (try 1400, then 1280), or let the firewalls between "
        "pass ICMP's 'fragmentation needed'."
    )


def _weakness(link: LinkRecord, source: NodeRecord, target: NodeRecord) -> tuple[str, str]:
    """What makes a link that works a poor one; the worst alone."""
    here, there = source.hostname, target.hostname
    rtt, jitter, rate = link.rtt or 0.0, link.jitter or 0.0, link.bytes_per_second
    if jitter > DRIFT_SECONDS and jitter > UNSTEADY * rtt:
        return (
            f"Round trips from {here} to {there} differ by {duration(jitter)} from one to the next.",
            "Use a cable instead of Wi-Fi, or end what else fills the line; a machine that is busy does it, too.",
        )
    if rate is not None and rate < SLOW_BYTES:
        return (
            f"{data_rate(rate)} from {here} to {there}: long prompts wait for the line.",
            "Use a faster line between them, or give the model to fewer nodes.",
        )
    if rtt > LONG_RTT:
        return (
            f"A round trip from {here} to {there} takes {duration(rtt)}: every token waits for the way.",
            "Place a model so that it crosses this link as seldom as possible; a VPN that takes a detour may be why.",
        )
    if abs(link.clock_offset or 0.0) > CLOCKS_APART:
        return (
            f"The clock of {there} is {duration(abs(link.clock_offset or 0.0))} "
            f"{'ahead of' if (link.clock_offset or 0.0) > 0 else 'behind'} that of {here}.",
            "Set both by a time server (NTP): times in their logs cannot be compared. Answers are not affected.",
        )
    return "", ""
