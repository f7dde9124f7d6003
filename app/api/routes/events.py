"""What happened: the registry's events."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query

from app.api.security import Room
from app.api.state import MOST_ID, TheController
from app.api.views import ALWAYS, EventList, EventView, errors
from app.registry import EventLevel

router = Room(prefix="/shard/api/events", tags=["events"], responses=errors(*ALWAYS))


@router.get("/recent/", summary="The newest events", responses=errors(422))
async def recent(
    controller: TheController,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    at_least: Annotated[EventLevel, Query(description="this level or a worse one")] = EventLevel.INFO,
    source: Annotated[str | None, Query(max_length=100)] = None,
    text: Annotated[str | None, Query(max_length=200, description="part of the message")] = None,
    node_id: Annotated[int | None, Query(ge=1, le=MOST_ID)] = None,
    deployment_id: Annotated[str | None, Query(max_length=100)] = None,
    request_id: Annotated[int | None, Query(ge=1, le=MOST_ID)] = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> EventList:
    """Newest first; all that is given must hold."""
    records = await controller.registry.call(
        lambda known: known.events.list(
            limit=limit, offset=offset, at_least=at_least, source=source, text=text, node_id=node_id,
            deployment_id=deployment_id, request_id=request_id, since=aware(since), until=aware(until),
        )
    )  # fmt: skip
    return EventList(events=[EventView.of(record) for record in records])


def aware(moment: datetime | None) -> datetime | None:
    """In UTC. A time without a zone is meant in the controller's own; one beyond the calendar's ends is that end."""
    if moment is None:
        return None
    try:
        return moment.astimezone(UTC)
    except (OverflowError, ValueError, OSError):
        return (datetime.min if moment.year < 5000 else datetime.max).replace(tzinfo=UTC)
