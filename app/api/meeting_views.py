"""What the endpoints of machines that wait to be found, or are invited, answer with."""

from __future__ import annotations

from pydantic import BaseModel, Field

from app.cluster.finding import WaitingAgent
from app.cluster.invitations import AGENT_STARTS, JoinCommand
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


class StartView(BaseModel):
    """How the agent is started on the other machine, by what is there of Shardboard."""

    given: str = Field(description="what is there")
    posix: str = Field(description="for Linux and macOS")
    windows: str


class InvitationView(BaseModel):
    """An invitation that is open."""

    job_id: int = Field(description="the job that waits for the agent; cancelling it makes the invitation void")
    valid_seconds: float
    commands: list[StartView] = Field(description="one of them starts an agent that joins")

    @classmethod
    def of(cls, job_id: int, command: JoinCommand) -> InvitationView:
        starts = [
            StartView(
                given=start.given,
                posix=f"{start.posix} {command.options}",
                windows=f"{start.windows} {command.options}",
            )
            for start in AGENT_STARTS
        ]
        return cls(job_id=job_id, valid_seconds=command.valid_seconds, commands=starts)
