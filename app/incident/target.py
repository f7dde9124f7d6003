"""What a bundle is run on here: a model of the library, and a node for each stage of its plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.errors import ModelError, PlacementError
from app.incident.contents import BundledRequest
from app.models.description import ModelDescription
from app.models.library import ModelLibrary
from app.registry import NodeRecord
from app.runs.trace import Plan


@dataclass(frozen=True)
class ChosenModel:
    """A model of the library, and what is to be said of the choice."""

    name: str
    remarks: tuple[str, ...] = ()


def choose_model(library: ModelLibrary, request: BundledRequest, named: str | None) -> ChosenModel:
    """The model with the same weights, or what the user names. Reads the library's files: not on the loop.

    Raises ModelError naming what is to be added to the library.
    """
    if named is not None:
        found = library.get(named)
        remark = () if found.name == request.model else (f"The model: {request.model} then, {found.name} now.",)
        return ChosenModel(found.name, remark)
    of_that_name = library.find(request.model)
    if of_that_name is not None and _content(library, of_that_name) in ("", request.content):
        return ChosenModel(of_that_name.name)
    if request.content:
        for other in library.list():
            if _content(library, other) == request.content:
                return ChosenModel(other.name, (f"The model is called {request.model} there and {other.name} here.",))
    if of_that_name is not None and request.content:
        raise ModelError(
            f"The library's {of_that_name.name} has other weights than the request ran on.",
            f"Add those that it ran on, or compare with these all the same: --model {of_that_name.name}",
        )
    if of_that_name is not None:
        return ChosenModel(of_that_name.name)
    raise ModelError(
        f"The request ran on {request.model}, and no model in the library has that name or the same weights.",
        "Add it: model add PATH_OR_HUB_ID. Weights under another name are recognised once they were deployed; until "
        "then name them with --model.",
    )


def _content(library: ModelLibrary, description: ModelDescription) -> str:
    return library.digests(description).content()


def layers_text(plan: Plan) -> str:
    """The plan's ranges as `--layers` takes them."""
    return ",".join(f"{stage.start}-{stage.end - 1}" for stage in plan.stages)


def nodes_for(plan: Plan, nodes: Sequence[NodeRecord]) -> list[int]:
    """A node for each stage: the one that had it, by name, where it is here and free; else the next one.

    Raises PlacementError when there are fewer nodes than stages.
    """
    at_hand = [node for node in nodes if node.is_active and not node.draining]
    if len(at_hand) < len(plan.stages):
        raise PlacementError(
            f"The plan has {len(plan.stages)} stages, and {len(at_hand)} nodes are at hand.",
            "Start more agents, or deploy the model as it fits and replay without --deploy.",
        )
    chosen: list[NodeRecord | None] = []
    for stage in plan.stages:
        alike = [node for node in at_hand if node not in chosen and node.hostname == stage.node]
        chosen.append(next((node for node in alike if node.id == stage.node_id), alike[0] if alike else None))
    free = iter(node for node in at_hand if node not in chosen)
    return [(node or next(free)).id for node in chosen]
