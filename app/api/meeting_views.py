"""What the endpoints of machines that wait to be found answer with."""

from __future__ import annotations

from pydantic import BaseModel, Field

from app.cluster.finding import WaitingAgent
from app.cluster.meetings import Meeting


class WaitingView(BaseModel):
    """An agent that waits to be found, as it announces itself. Nothing of it is sure."""

    name: str
    address: str = Field(description="HOST:PORT")
    key: str = Field(description="its public key, to meet it with")
    fingerprint: str = Field(description="what its terminal shows of the key")
    problem: str = Field(description="why it cannot be taken in; empty when it can")

    @classmethod
    def of(cls, agent: WaitingAgent) -> WaitingView:
        return cls(
            name=agent.name, address=agent.address, key=agent.public_key, fingerprint=agent.fingerprint,
            problem=agent.problem,
        )  # fmt: skip


class WaitingList(BaseModel):
    machines: list[WaitingView]


class MeetingView(BaseModel):
    """A meeting under way: the agent shows a code, which is to be given here."""

    id: str
    name: str
    address: str
    fingerprint: str

    @classmethod
    def of(cls, meeting: Meeting) -> MeetingView:
        return cls(id=meeting.id, name=meeting.name, address=meeting.address, fingerprint=meeting.fingerprint)


class Ended(BaseModel):
    ended: str = Field(description="the meeting's id")
