"""Taking in machines that wait to be found: who waits, meeting one, the code, and ending it. Window, HTTP and commands
do it in these steps."""

from __future__ import annotations

from collections.abc import Callable

from app.cluster.finding import WaitingAgent, find_waiting
from app.cluster.meetings import Meeting
from app.controller import Controller
from app.registry import NodeRecord

LOOK_SECONDS = 4.0


async def find_machines(
    controller: Controller,
    seconds: float = LOOK_SECONDS,
    on_found: Callable[[list[WaitingAgent]], None] = lambda found: None,
) -> list[WaitingAgent]:
    """Who waits to be found on this machine's networks, after looking for so long. Nobody is trusted by that.

    Args:
        on_found: told all that wait at the moment, whenever that changes.
    """
    return await find_waiting(seconds, on_found)


async def begin_meeting(controller: Controller, address: str, public_key: str) -> Meeting:
    """Meet an agent that waits: it shows a code then. As `Meetings.begin`."""
    return await controller.nodes.meetings.begin(address, public_key)


async def confirm_meeting(
    controller: Controller, meeting: str, code: str, on_right: Callable[[str], None] = lambda what_now: None
) -> NodeRecord:
    """Give the code that the agent shows, wait for the confirmation there, register it. As `Meetings.confirm`."""
    return await controller.nodes.meetings.confirm(meeting, code, on_right)


async def end_meeting(controller: Controller, meeting: str) -> None:
    """End a meeting, if it is under way."""
    await controller.nodes.meetings.end(meeting)
