"""What the endpoints of links between nodes answer with."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from app.cluster.link_findings import LinkFinding


class LinkView(BaseModel):
    """One direction between two nodes, as it was measured last. Figures are null where it does not work."""

    source_id: int
    source: str
    target_id: int
    target: str
    outcome: str = Field(description="measured, or how far it came: name, refused, silent, unreachable, …")
    round_trip_ms: float | None = Field(description="the median")
    least_round_trip_ms: float | None
    jitter_ms: float | None
    bytes_per_second: float | None
    clock_offset_ms: float | None = Field(description="by how much the target's clock is ahead")
    segment_bytes: int | None = Field(description="of a TCP segment on the way")
    problem: str
    advice: str
    drift: str = Field(description="what has changed since it was measured before")
    measured_at: datetime

    @classmethod
    def of(cls, finding: LinkFinding) -> LinkView:
        link = finding.link
        return cls(
            source_id=link.source_id, source=finding.source, target_id=link.target_id, target=finding.target,
            outcome=link.outcome, round_trip_ms=_ms(link.rtt), least_round_trip_ms=_ms(link.least_rtt),
            jitter_ms=_ms(link.jitter), bytes_per_second=link.bytes_per_second,
            clock_offset_ms=_ms(link.clock_offset), segment_bytes=link.segment_bytes, problem=finding.problem,
            advice=finding.advice, drift=finding.drift, measured_at=link.created_at,
        )  # fmt: skip


class LinkList(BaseModel):
    links: list[LinkView]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
