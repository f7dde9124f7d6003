"""Passes of several sequences side by side, which wait for each other where a module treats each token by itself.

A layer whose attention cannot be replaced, or that keeps a recurrence, is given one sequence at a time, with a cache
and masks of its own. Most of what such a pass costs is reading weights, and the modules that have them do not care
whose tokens they are given (`rowwise.py`). So each sequence has a pass of its own in a greenlet; where it comes to such
a module it waits until the others have come as far, and the module runs once, for the tokens of all of them. What
stands between those modules, attention and recurrences among it, sees its own sequence alone, with the masks, positions
and cache that transformers makes for it.

Greenlets share a thread and switch only when they are told to, at these modules, so nothing runs at the same time.
Switched off by `SHARDBOARD_LOCKSTEP=0`; benchmarks/lockstep.py has the figures.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from greenlet import greenlet

from worker_agent.model import rowwise
from worker_agent.model.rowwise import Arguments, Dimensions, RowWise

T = TypeVar("T")


def why_not() -> str:
    """Why passes go one after another on this machine; empty where they do not."""
    return (
        "switched off where this agent runs (SHARDBOARD_LOCKSTEP=0)"
        if os.environ.get("SHARDBOARD_LOCKSTEP") == "0"
        else ""
    )


_running = threading.local()


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A pass that has come to a meeting."""

    meeting: Meeting
    call: Arguments
    dimensions: Dimensions
    alike: tuple[object, ...]
    """Calls may be one where this is the same."""


class Meeting:
    """Stands for the `forward` of a module that treats each token by itself."""

    def __init__(self, found: RowWise, order: int) -> None:
        self.order = order
        """When it comes in a pass: what comes first is waited for first."""
        self._module, self._forms, self._forward = found.module, found.forms, found.module.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        step: _Step | None = getattr(_running, "step", None)
        if step is None or step.hub is greenlet.getcurrent():
            return self._forward(*args, **kwargs)
        form = rowwise.form_of(args, kwargs)
        dimensions = None if form is None else self._forms.get(form)
        if dimensions is None:
            return self._forward(*args, **kwargs)
        call = (args, kwargs)
        return step.hub.switch(_Waiting(self, call, dimensions, (self.order, form, *_widths(call, dimensions))))

    def run(self, calls: Sequence[Arguments], dimensions: Dimensions, joint: Arguments) -> list[Any]:
        """What it gives for each of several calls, of which `joint` has all tokens."""
        output = self._forward(*joint[0], **joint[1])
        return rowwise.parted(output, dimensions, rowwise.counts(calls, dimensions))

    def end(self) -> None:
        """The module is as it was."""
        if vars(self._module).get("forward") is self:
            del self._module.forward


class Lockstep:
    """The meetings of a stage's passes, hung into its modules until `end`.

    Args:
        found: in the order in which they run.
    """

    def __init__(self, found: Iterable[RowWise] = ()) -> None:
        self._meetings: list[Meeting] = []
        self.add(found)

    def __len__(self) -> int:
        return len(self._meetings)

    def add(self, found: Iterable[RowWise]) -> list[Meeting]:
        """More of them, which run after those that are there."""
        added = [Meeting(each, len(self._meetings) + place) for place, each in enumerate(found)]
        for meeting in added:
            meeting._module.forward = meeting
        self._meetings += added
        return added

    def end(self, meetings: Sequence[Meeting] | None = None) -> None:
        """Have these modules, or all, be called by each pass for itself again."""
        ending = self._meetings if meetings is None else meetings
        for meeting in ending:
            meeting.end()
        self._meetings = [meeting for meeting in self._meetings if meeting not in ending]

    def run(self, passes: Sequence[Callable[[], T]]) -> list[T]:
        """What each of the passes returns. One that fails ends them all, with its error."""
        if len(passes) == 1 or not self._meetings:
            return [each() for each in passes]
        step = _Step(passes)
        _running.step = step
        try:
            return step.run()
        finally:
            _running.step = None
            step.end()


class _Step:
    """Passes under way."""

    def __init__(self, passes: Sequence[Callable[[], Any]]) -> None:
        self.hub = greenlet.getcurrent()
        self._passes = [greenlet(each, self.hub) for each in passes]
        self._results: dict[int, Any] = {}
        self._waiting: dict[int, _Waiting] = {}
        self._given: list[torch.Tensor] = []
        """What the last call had of each pass, and `_joint`, the same as one."""
        self._joint: Arguments = ((), {})

    def run(self) -> list[Any]:
        for number in range(len(self._passes)):
            self._go_on(number)
        while self._waiting:
            self._meet()
        return [self._results[number] for number in range(len(self._passes))]

    def end(self) -> None:
        """Passes that an error has left where they waited end there."""
        for each in self._passes:
            if each:
                each.throw()

    def _go_on(self, number: int, *given: Any) -> None:
        came = self._passes[number].switch(*given)
        if self._passes[number].dead:
            self._results[number] = came
        else:
            self._waiting[number] = came

    def _meet(self) -> None:
        """Run the module that comes first in a pass, for all that have come to it."""
        first = min(self._waiting.values(), key=lambda waiting: waiting.meeting.order)
        numbers = [number for number, waiting in self._waiting.items() if waiting.alike == first.alike]
        calls = [self._waiting.pop(number).call for number in numbers]
        joint = calls[0] if len(calls) == 1 else self._joined(calls, first.dimensions)
        for number, output in zip(numbers, first.meeting.run(calls, first.dimensions, joint), strict=True):
            self._go_on(number, output)

    def _joined(self, calls: Sequence[Arguments], dimensions: Dimensions) -> Arguments:
        """All tokens of some calls; the same tensors as before where they were called with the same.

        (Matrices that were joined know by the tensor itself that they have multiplied with it already.)
        """
        given = [value for args, kwargs in calls for value in (*args, *kwargs.values())]
        if len(given) != len(self._given) or any(
            one is not other for one, other in zip(given, self._given, strict=True)
        ):
            self._given, self._joint = given, rowwise.joined(calls, dimensions)
        return self._joint


def _widths(call: Arguments, dimensions: Dimensions) -> list[object]:
    """Of each tensor that is given its extents in the other dimensions, and its type."""
    found: list[object] = []
    for slot, dimension in dimensions.given.items():
        tensor: torch.Tensor = call[0][slot] if isinstance(slot, int) else call[1][slot]
        shape = tensor.shape
        found += (shape[:dimension], shape[dimension + 1 :], tensor.dtype)
    return found
