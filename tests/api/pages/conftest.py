"""A browser, a server with two agents that hold a real model, a third agent, and a site that is somebody else's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

import pytest

from app.api.keys import make_key
from app.api.server import ApiServer
from app.controller_settings import ServerSettings
from app.registry import NodeRecord
from tests.api.pages.tab import Tab
from tests.e2e.conftest import System
from tests.runs.chromium import BROWSER, DRIVER, Browser, open_browser
from tests.worker_agent.agent_process import AgentProcess, running_agent

HOSTILE = '</title></script><script>hacked = 1</script><img src=x onerror="hacked = 2">"\'><svg onload="hacked = 3">'
"""Every text that somebody else may choose."""


@dataclass(frozen=True)
class Served:
    """A system and the server in front of it."""

    system: System
    server: ApiServer
    deployment: str

    @property
    def url(self) -> str:
        return self.server.url

    def refusals(self) -> int:
        """How many posts the server has refused so far, as it tells itself."""
        with urlopen(f"{self.url}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        counted = [line for line in lines if line.startswith("shardboard_http_requests_total{")]
        return sum(int(float(line.split()[-1])) for line in counted if 'method="POST"' in line and '"403"' in line)


@dataclass(frozen=True)
class Guarded:
    """A server on all networks, and the key that it demands."""

    url: str
    key: str


@dataclass
class Elsewhere:
    """A site whose pages are what a test says."""

    port: int
    page: str = ""

    def url(self, host: str) -> str:
        return f"http://{host}:{self.port}/"


def start(system: System, settings: ServerSettings) -> ApiServer:
    async def on_loop() -> ApiServer:
        server = ApiServer(system.controller, settings)
        await server.start()
        return server

    return system.run(on_loop())


@pytest.fixture(scope="package")
def served(smollm_system: System) -> Iterator[Served]:
    (deployment,) = smollm_system.run(smollm_system.controller.deployments.ready("smollm"))
    server = start(smollm_system, ServerSettings(port=0))
    try:
        yield Served(smollm_system, server, deployment.id)
    finally:
        smollm_system.run(server.stop(deadline=1.0))


@pytest.fixture(scope="package")
def guarded(served: Served) -> Iterator[Guarded]:
    key = make_key(served.system.controller.registry, "laptop")
    server = start(served.system, ServerSettings(host="0.0.0.0", port=0))
    try:
        yield Guarded(server.url, key)
    finally:
        served.system.run(server.stop(deadline=1.0))


@pytest.fixture(scope="package")
def third_agent(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """It trusts the controller, which does not know it yet. Its name is an attack."""
    trust = f"--trust={served.system.controller.identity.keys.public}"
    with running_agent(tmp_path_factory.mktemp("third") / "home", trust, "--name", HOSTILE) as agent:
        yield agent


@contextmanager
def registered(served: Served, agent: AgentProcess) -> Iterator[NodeRecord]:
    """An agent as a node, unless it is removed meanwhile."""
    controller = served.system.controller
    node = served.system.run(controller.add_node(agent.address, agent.public_key))
    yield node
    if node.id in {one.id for one in controller.registry.nodes.list()}:
        served.system.run(controller.remove_node(str(node.id)))


@pytest.fixture
def third_node(served: Served, third_agent: AgentProcess) -> Iterator[NodeRecord]:
    with registered(served, third_agent) as node:
        yield node


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if BROWSER is None or DRIVER is None:
        pytest.skip("needs Chromium and its driver")
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def tab(browser: Browser, served: Served) -> Tab:
    """As if nobody had been there before."""
    browser.driver.delete_all_cookies()
    tab = Tab(browser, served.url)
    tab.look()
    return tab


class _Page(BaseHTTPRequestHandler):
    site: Elsewhere

    def log_message(self, format: str, *args: object) -> None:
        """Tests are quiet."""

    def do_GET(self) -> None:
        body = f"<!doctype html><title>elsewhere</title>{self.site.page}".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="package")
def elsewhere() -> Iterator[Elsewhere]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        site = Elsewhere(server.server_address[1])
        server.RequestHandlerClass = type("Page", (_Page,), {"site": site})
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
