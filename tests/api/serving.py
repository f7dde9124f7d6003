"""The HTTP server in front of a real system, and what the tests of the API ask it with."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from app.api.server import ApiServer
from app.controller_settings import ServerSettings
from app.registry import RequestRecord
from tests.e2e.conftest import System
from tests.waiting import wait_until

MODEL = "tiny"
LAYERS = 4
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
CONTEXT = 4096
ENDLESS: dict[str, Any] = {"max_tokens": 4000, "ignore_eos": True}
"""Parameters of a request that goes on until it is cancelled: for ten seconds and more."""


@dataclass(frozen=True)
class Served:
    """A system, a server in front of it, and a program that asks for JSON."""

    system: System
    server: ApiServer
    client: httpx.Client

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def host(self) -> str:
        """As a Host header has it."""
        return urlsplit(self.url).netloc

    def get(self, path: str, status: int = 200, **options: Any) -> Any:
        """The JSON that a path is answered with."""
        return _json(self.client.get(path, **options), status)

    def post(self, path: str, body: Any = None, status: int = 200, **options: Any) -> Any:
        return _json(self.client.post(path, json={} if body is None else body, **options), status)

    def error(self, method: str, path: str, status: int, **options: Any) -> dict[str, Any]:
        """The error that a request is answered with; it always has the same fields."""
        error = _json(self.client.request(method, path, **options), status)["error"]
        assert set(error) == {"message", "advice", "type", "code"}
        assert error["message"]
        return dict(error)

    # --- requests to models ---

    def submit(self, prompt: str = "The quick brown", **parameters: Any) -> int:
        """Begin a request; its number."""
        body = {"model": MODEL, "prompt": prompt, "parameters": parameters}
        return int(self.post("/shard/api/inference/submit/", body, 202)["id"])

    def status(self, request: int) -> Any:
        return self.get(f"/shard/api/inference/status/{request}/")

    def finished(self, request: int) -> Any:
        """A request as it is told once it is over."""
        self.client.get(f"/shard/api/inference/stream/{request}/").raise_for_status()
        return self.status(request)

    def cancel(self, request: int) -> Any:
        return self.post(f"/shard/api/inference/cancel/{request}/")

    def answer(self, prompt: str = "The quick brown", **parameters: Any) -> Any:
        return self.finished(self.submit(prompt, **parameters))

    def record(self, request: int) -> RequestRecord:
        """A request as the registry has it."""
        return self.system.controller.registry.requests.get(request)

    # --- jobs ---

    def job(self, id: int, *until: str) -> Any:
        """A job, once it is over or as `until` says."""
        wanted = until or ("done", "failed", "cancelled")
        wait_until(lambda: self.get(f"/shard/api/jobs/status/{id}/")["status"] in wanted, 150.0)
        return self.get(f"/shard/api/jobs/status/{id}/")


@contextmanager
def serving(system: System, *, close_within: float = 1.0, **settings: Any) -> Iterator[Served]:
    """A server with these settings, on a free port, until the block ends."""

    async def start() -> ApiServer:
        server = ApiServer(system.controller, ServerSettings(**{"port": 0, **settings}))
        await server.start()
        return server

    server = system.run(start())
    try:
        # No certificates are read: nothing here is asked by HTTPS.
        with httpx.Client(
            base_url=server.url, timeout=60, headers={"Accept": "application/json"}, verify=False
        ) as client:
            yield Served(system, server, client)
    finally:
        system.run(server.stop(close_within))


@contextmanager
def connected(served: Served, receive_buffer: int = 0) -> Iterator[socket.socket]:
    """A plain connection; what is sent over it is the test's."""
    place = urlsplit(served.url)
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(20)
    with connection:
        connection.connect((place.hostname, place.port))
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes the connection, or cuts it."""
    received = bytearray()
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionError:
        pass
    return bytes(received)


def exchange(served: Served, content: bytes) -> tuple[int, str]:
    """Send bytes as they are; status and body of the answer, behind which the server hangs up."""
    with connected(served) as connection:
        connection.sendall(content)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


def get_raw(served: Served, path: str, *headers: str, host: str | None = None) -> tuple[int, str]:
    """GET a path as it stands, with exactly these headers."""
    lines = [f"GET {path} HTTP/1.1", *([] if host == "" else [f"Host: {host or served.host}"]), "Connection: close"]
    return exchange(served, "\r\n".join([*lines, *headers, "", ""]).encode("latin-1"))


def make_tiny_model(folder: Path) -> Path:
    """A Llama of four layers with random weights and a tokenizer, which answers nonsense for as long as it may."""
    from worker_agent.model.imports import import_transformers

    import_transformers()  # as agents have it, which takes half as long as the whole
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from tests.inference import tiny_tokenizers

    tokenizer = tiny_tokenizers.byte_level()
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size() + 1, hidden_size=32, intermediate_size=64, num_hidden_layers=LAYERS,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=CONTEXT, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
    return tiny_tokenizers.save(folder, tokenizer, tokenizer_config=settings)


def _json(response: httpx.Response, status: int) -> Any:
    assert response.status_code == status, f"{response.request.url}: {response.status_code} {response.text[:500]}"
    assert response.headers["content-type"] == "application/json"
    return response.json()
