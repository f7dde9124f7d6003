"""The errors an agent reports by name; what crosses the wire is `kind`, a sentence and what to do.

Every class carries a `kind` that `messages.Failed` takes over, so that the controller can tell a node
that lacks memory from one that got broken weights without reading prose.
"""

from __future__ import annotations


class AgentError(Exception):
    """Something the agent could not do. `str(error)` is a sentence for the user."""

    kind = "internal"


class WireError(AgentError):
    """A message that breaks the protocol: malformed, over a limit, or out of place."""

    kind = "wire"


class VersionMismatch(WireError):
    """The peer speaks no wire version that this side speaks."""

    kind = "version"


class NotAllowed(AgentError):
    """The sender's key may not do what it asked for."""

    kind = "not_allowed"


class OutOfMemory(AgentError):
    """The node lacks memory for a stage; the text says how much is needed and how much is free."""

    kind = "memory"
    needed = 0
    free = 0

    def with_figures(self, needed: int, free: int) -> OutOfMemory:
        """Add the byte counts that `messages.Failed` carries."""
        self.needed, self.free = needed, free
        return self


class DiskFull(AgentError):
    """The node lacks disk space for the layers it was sent."""

    kind = "disk"


class BadWeights(AgentError):
    """Layers that are not there, are not as their manifest says, or do not fit the model."""

    kind = "weights"


class DamagedPart(BadWeights):
    """Layers whose bytes do not match their hash."""

    kind = "damaged"


class CannotSplit(AgentError):
    """The architecture cannot be cut, or not where it was asked to be."""

    kind = "architecture"


class NoTokenizer(AgentError):
    """A grammar needs the deployment's tokenizer, which the controller has not sent yet."""

    kind = "no_tokenizer"


class BadConstraint(AgentError):
    """A grammar that cannot be followed with this model's tokenizer."""

    kind = "constraint"


class NotFinite(AgentError):
    """Numbers that stopped being finite, as hidden states or as logits: what they spoil has no answer."""

    kind = "numbers"


class Busy(AgentError):
    """What can be done once at a time is being done."""

    kind = "busy"


class UnknownStage(AgentError):
    """A message for a deployment or stage that this agent does not hold."""

    kind = "unknown_stage"


class OutOfStep(AgentError):
    """A step whose position lies past the KV cache; the text says how long the cache is."""

    kind = "position"


class Draining(AgentError):
    """The agent takes no new work."""

    kind = "draining"
