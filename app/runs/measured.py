"""What is said of a measurement: in the inspector, on pages, by commands, of the job that brought it."""

from __future__ import annotations

from collections.abc import Iterable

from app.registry.records import MeasurementRecord


def measured_text(record: MeasurementRecord) -> str:
    """Perplexity 18.42, 0.8 % above that of float32 (18.27); 97.3 % of 512 greedy tokens are the same."""
    text = f"perplexity {figure(record.perplexity)}"
    if (cost := record.cost) is not None and record.reference_perplexity is not None:
        side = "above" if cost >= 0 else "below"
        text += f", {abs(cost) * 100:.2f} % {side} that of {record.reference} ({figure(record.reference_perplexity)})"
    if (share := record.same_share) is not None:
        text += f"; {share * 100:.1f} % of {record.greedy_tokens} greedy tokens are the same"
    return text


def circumstances_text(record: MeasurementRecord) -> str:
    """2026-11-28, 2,191 tokens of plain-english-1, on alpha and beta"""
    nodes = " and ".join(filter(None, (", ".join(record.nodes[:-1]), record.nodes[-1]))) if record.nodes else "no node"
    day = record.created_at.astimezone().date().isoformat()
    return f"{day}, {record.tokens:,} tokens of {record.text}, on {nodes}"


def newest_of_each(records: Iterable[MeasurementRecord]) -> list[MeasurementRecord]:
    """Of the measurements of one model, the newest in each kind of numbers and against each reference.

    Args:
        records: the newest first.
    """
    found: dict[tuple[str, str | None, str], MeasurementRecord] = {}
    for record in records:
        found.setdefault((record.serving.numbers, record.reference, record.text), record)
    return list(found.values())


def figure(perplexity: float) -> str:
    """18.42; one that is no use at all without decimals."""
    if perplexity >= 1e9:
        return f"{perplexity:.1e}"
    return f"{perplexity:,.0f}" if perplexity >= 1000 else f"{perplexity:.2f}"
