"""The job that measures the links between nodes: each direction of each pair, one after another.

One after another, since two at a time would share a line and neither would be as it is for a step alone.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from itertools import permutations

from app.children.work import JobProgress
from app.cluster.nodes import NodeDirectory
from app.errors import BadInput, NodeError
from app.jobs.job import Job, Means, Outcome
from app.registry import LinkRecord, NodeRecord
from worker_agent.wire.messages import AdmitProbe, Probed, ProbeLink

log = logging.getLogger(__name__)

PINGS = 30
TOTAL_BYTES = 32 * 1024 * 1024
"""Sent for the bandwidth in one direction, at most; a second's worth where that is less."""
SECONDS = 25.0
"""For one direction."""
CONNECT_SECONDS = 3.0
BUSY_SECONDS = 1.0
"""How long to wait before an agent that measures for somebody else is asked again."""
BUSY_TRIES = 30


@dataclass(frozen=True)
class LinksWork:
    """Measure the links between these nodes, or between all that answer. What was measured stays when it breaks off."""

    nodes: tuple[int, ...] | None = None
    kind: str = "links"
    queue: str = "links"
    model: str = ""

    @property
    def title(self) -> str:
        return "Measure links" if self.nodes is None else f"Measure links between {len(self.nodes)} nodes"

    async def do(self, job: Job, means: Means) -> Outcome[list[LinkRecord]]:
        nodes = await self._there(means)
        pairs = list(permutations(nodes, 2))
        records = []
        for number, (source, target) in enumerate(pairs):
            phase = f"measuring {source.hostname} to {target.hostname}"
            job.report(JobProgress(phase, number, len(pairs), unit="links"))
            probing = asyncio.ensure_future(measured(means.nodes, source, target))
            found = await job.ended(probing, partial(_cancel, probing))
            records.append(
                await means.registry.call(
                    lambda known, source=source, target=target, found=found: known.links.add(  # type: ignore[misc]
                        source.id, target.id, outcome=found.outcome, detail=found.detail, rtt=found.rtt,
                        least_rtt=found.least_rtt, jitter=found.jitter, clock_offset=found.clock_offset,
                        bytes_per_second=found.bytes_per_second, segment_bytes=found.segment_bytes,
                    )
                )
            )  # fmt: skip
        failed = sum(not record.is_measured for record in records)
        job.details.update(links=len(records), failed=failed)
        text = f"{len(records)} links were measured" + (f", {failed} of them do not work." if failed else ".")
        return Outcome(records, "", text)

    async def _there(self, means: Means) -> list[NodeRecord]:
        """The nodes that answer. Raises NodeError for a named one that does not, BadInput where there are too few."""
        known = await means.registry.call(lambda registry: registry.nodes.list())
        if self.nodes is None:
            asked = [means.nodes.link(record.id).connect(CONNECT_SECONDS) for record in known]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            nodes = [record for record, answer in zip(known, answers, strict=True) if not isinstance(answer, NodeError)]
        else:
            by_id = {record.id: record for record in known}
            if missing := [number for number in self.nodes if number not in by_id]:
                raise BadInput(f"There is no node {missing[0]}.", "List what there is with: node list")
            nodes = [by_id[number] for number in dict.fromkeys(self.nodes)]
            for record in nodes:
                await means.nodes.link(record.id).connect(CONNECT_SECONDS)
        if len(nodes) < 2:
            raise BadInput(
                f"A link needs two nodes that answer, and there {'is one' if nodes else 'is none'}.",
                "Add nodes, or start agents here with: node local 2",
            )
        return nodes


def _cancel(probing: asyncio.Future[Probed]) -> None:
    """Look away: the agent comes to an end by itself, and whoever asks it meanwhile waits for that."""
    probing.cancel()


async def measured(nodes: NodeDirectory, source: NodeRecord, target: NodeRecord) -> Probed:
    """Have one node's agent measure its link to another's. Raises NodeError when one of them cannot be asked."""
    admit = AdmitProbe(call=0, key=source.public_key, seconds=SECONDS, total_bytes=TOTAL_BYTES)
    probe = ProbeLink(
        call=0, address=target.address, key=target.public_key, pings=PINGS, total_bytes=TOTAL_BYTES, seconds=SECONDS
    )
    for _ in range(BUSY_TRIES):
        await nodes.link(target.id).call(admit)
        try:
            return await nodes.link(source.id).call(probe, seconds=SECONDS + 10)
        except NodeError as error:
            if error.kind != "busy":
                raise
            log.info("%s", error)
            await asyncio.sleep(BUSY_SECONDS)
    raise NodeError(
        f"{source.hostname} measures links for somebody else and does not come to an end.",
        "Try again later.",
        kind="busy",
        node=source.hostname,
    )
