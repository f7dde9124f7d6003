"""A small Hugging Face Hub: the two addresses that downloading needs, over plain HTTP, with ranges and faults."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "1234567890abcdef1234567890abcdef12345678"
LARGE = 20_000
"""Files from this size on are kept as large files (LFS) and have a sha256."""


@dataclass
class HubStandIn:
    """What the server has and what it was asked for."""

    address: str
    repositories: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    break_after: int | None = None
    """Cut the connection of a large file after this many bytes, once, and answer no more after that."""
    damaged: set[str] = field(default_factory=set)
    """Names of files that arrive with a flipped bit."""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """(file, Range header) of every GET of a file."""
    down: bool = False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubStandIn

    def log_message(self, format: str, *args: Any) -> None:
        """Tests are quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub = self.hub
        if hub.down:
            self.close_connection = True
            return
        if match := re.fullmatch(r"/api/models/([^/]+/[^/?]+)(?:/revision/([^/?]+))?(?:\?.*)?", self.path):
            self._info(match[1], match[2])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)", self.path):
            self._file(match[1], match[3], body)
        else:
            self._fail(404, "EntryNotFound")

    def _info(self, repository: str, revision: str | None) -> None:
        folder = self.hub.repositories.get(repository)
        if folder is None:
            self._fail(404, "RepoNotFound")
        elif revision not in (None, "main", COMMIT):
            self._fail(404, "RevisionNotFound")
        else:
            siblings = []
            for path in sorted(each for each in folder.rglob("*") if each.is_file()):
                content, name = path.read_bytes(), path.relative_to(folder).as_posix()
                entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": "0"}
                if len(content) >= LARGE:
                    sha256 = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 100}
                siblings.append(entry)
            document = {"id": repository, "modelId": repository, "sha": COMMIT, "tags": [], "siblings": siblings}
            self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _file(self, repository: str, name: str, body: bool) -> None:
        hub = self.hub
        if repository in hub.gated:
            return self._fail(403, "GatedRepo")
        path = hub.repositories.get(repository, Path("/nowhere")) / name
        if not path.is_file():
            return self._fail(404, "EntryNotFound")
        content = path.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        if not body:
            return self._send(200, b"", headers, length=len(content))
        asked = self.headers.get("Range")
        hub.asked.append((name, asked))
        if name in hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        status = 200
        if asked is not None:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        if hub.break_after is not None and len(content) >= LARGE:
            hub.down = True
            self._send(status, content[: hub.break_after], headers, length=len(content))
            self.close_connection = True
            return None
        return self._send(status, content, headers)

    def _fail(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def running_hub() -> Iterator[HubStandIn]:
    """A hub on a free port of the loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = HubStandIn(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass = type("Handler", (_Handler,), {"hub": hub})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
