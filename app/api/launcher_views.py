"""What the endpoints of launchers answer with."""

from __future__ import annotations

from pydantic import BaseModel, Field

from app.launchers.launcher import LauncherState


class LauncherView(BaseModel):
    """What can bring agents to machines of one kind."""

    name: str = Field(description="local, ssh or ray")
    title: str
    problem: str = Field(description="why it cannot be used on the controller's machine; empty when it can")
    nodes: list[int] = Field(description="ids of the nodes that it has brought")
    gone: list[int] = Field(description="those of them whose machine it has no more")

    @classmethod
    def of(cls, state: LauncherState) -> LauncherView:
        return cls(
            name=state.name, title=state.title, problem=state.problem, nodes=list(state.nodes), gone=list(state.gone)
        )


class LauncherList(BaseModel):
    launchers: list[LauncherView]
