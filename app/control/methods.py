"""What may be asked through the control door: the controller's methods that commands use, by name.

Types come from the methods' own annotations. A parameter that is a callback is not sent: what it is called with is
told to the command, which calls its own.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app import finding, first_run, launching
from app.control import incidents
from app.controller import Controller
from app.inference.events import Continued, Finished, Interrupted, Preparing, PromptProgress, Started, TextDelta

EVENTS: dict[str, type] = {
    event.__name__: event for event in (Preparing, Started, PromptProgress, Interrupted, Continued, TextDelta, Finished)
}
"""The events of a request by the name under which they are told."""

REQUEST_ID = "id"
"""Told before a request's events: its number."""

OF_THE_CONTROLLER = (
    "add_demo_model", "add_model", "add_node", "cancel_job", "change_settings", "cut_model",
    "deploy", "drain_node", "follow_job", "hand_over", "heard_of_nodes", "inspect_model", "invite", "launch_local",
    "link_findings",
    "list_models", "list_nodes", "measure_links", "measure_model", "measurements", "node_memory", "plan", "prune",
    "read_agent_log", "remove_model", "remove_node", "retry_job", "start_agent", "stop_agent", "stop_agents",
    "stopped_agents", "undeploy",
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """A method that may be called, with its types."""

    name: str
    function: Callable[..., Any]
    """Takes the controller first."""
    order: tuple[str, ...]
    """All of its parameters, as they stand."""
    parameters: dict[str, Any]
    callbacks: dict[str, Any]
    """Name to the type of the one thing that it is called with."""
    result: Any

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Method:
        hints = typing.get_type_hints(function)
        parameters, callbacks = {}, {}
        order = tuple(inspect.signature(function).parameters)[1:]
        for name in order:
            told = _told(hints[name])
            if told is None:
                parameters[name] = hints[name]
            else:
                callbacks[name] = told
        return cls(function.__name__, function, order, parameters, callbacks, hints["return"])


def _told(hint: Any) -> Any:
    """What a callback is called with; None when the parameter is none."""
    for option in (hint, *typing.get_args(hint)):
        if typing.get_origin(option) is not None and "Callable" in str(typing.get_origin(option)):
            return typing.get_args(option)[0][0]
    return None


@functools.cache
def methods() -> dict[str, Method]:
    """All of them, by name."""
    functions = [getattr(Controller, name) for name in OF_THE_CONTROLLER]
    functions += [incidents.incident_bundle, incidents.replay_bundle]
    functions += [first_run.take_local_agents, first_run.give_back, first_run.deploy_over]
    functions += [finding.find_machines, finding.begin_meeting, finding.confirm_meeting, finding.end_meeting]
    functions += [launching.launch, launching.launchers, launching.update_agent, launching.deploy_on_ray]
    functions += [launching.look_at_ray, launching.end_ray]
    return {function.__name__: Method.of(function) for function in functions}
