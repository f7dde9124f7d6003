"""What agents do with each other besides the steps of a ring, as a controller has named them: measuring the link
between them, and getting weights."""

from __future__ import annotations

from collections.abc import Sequence

from worker_agent.host.fetching import Fetcher
from worker_agent.host.probing import Prober
from worker_agent.store.storekeeper import Reply
from worker_agent.wire.access import Access
from worker_agent.wire.messages import AdmitFetch, AdmitProbe, Buffer, Done, Fetch, Ping, ProbeLink

Question = Ping | AdmitProbe | ProbeLink | AdmitFetch | Fetch


class AmongAgents:
    """Hands each question to who answers it. Belongs to the I/O thread; `stop` may be called in any."""

    def __init__(self, access: Access, prober: Prober, fetcher: Fetcher) -> None:
        self._access, self._prober, self._fetcher = access, prober, fetcher

    def handle(self, key: str, message: Question, payload: Sequence[Buffer], reply: Reply) -> None:
        """Raises AgentError for what cannot be done."""
        match message:
            case Ping():
                self._prober.echo(key, message, payload, reply)
            case AdmitProbe():
                self._prober.admit(message, reply)
            case ProbeLink():
                self._prober.probe(message, reply)
            case AdmitFetch():
                self._access.admit_fetch(message.key, message.digests, message.seconds)
                reply(Done(call=message.call))
            case Fetch():
                self._fetcher.fetch(message, reply)

    def stop(self) -> None:
        self._prober.stop()
        self._fetcher.stop()
