"""Which model of the library a bundle is to run on: the one with the same weights, or what the user names. Blocks."""

from __future__ import annotations

from dataclasses import dataclass

from app.errors import ModelError
from app.incident.contents import BundledRequest
from app.models.description import ModelDescription
from app.models.library import ModelLibrary


@dataclass(frozen=True)
class ChosenModel:
    """A model of the library, and what is to be said of the choice."""

    name: str
    remarks: tuple[str, ...] = ()


def choose_model(library: ModelLibrary, request: BundledRequest, named: str | None) -> ChosenModel:
    """Raises ModelError naming what is to be added to the library."""
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
