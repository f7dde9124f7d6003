"""What every answer has: the headers that protect its reader, one form of errors, and no fault of the server's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from starlette.responses import StreamingResponse

from app.api.gate import SECURITY_HEADERS
from tests.api.serving import Served, get_raw, serving
from tests.e2e.conftest import System
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def served(bare: System) -> Iterator[Served]:
    with serving(bare) as served:
        yield served


@pytest.fixture
def faulty(bare: System) -> Iterator[Served]:
    """A server with an endpoint that has a bug, and one whose bug shows in the middle of its answer."""

    def broken() -> None:
        raise ZeroDivisionError("a secret of the server")

    async def pieces() -> AsyncIterator[bytes]:
        yield b"the beginning"
        raise ZeroDivisionError("a secret of the server")

    async def torn() -> StreamingResponse:
        return StreamingResponse(pieces(), headers={"Content-Length": "1000"})

    with serving(bare) as served:
        served.server._application.add_api_route("/broken", broken)
        served.server._application.add_api_route("/torn", torn)
        yield served


# --- headers ---


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/shard/nodes/", 200),
        ("GET", "/docs", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/health", 200),
        ("GET", "/metrics", 200),
        ("GET", "/static/pages.js", 200),
        ("GET", "/shard/api/runs/export/", 200),
        ("GET", "/shard/nodes", 307),
        ("GET", "/nothing/here", 404),
        ("GET", "/shard/api/jobs/status/1000/", 404),
        ("DELETE", "/", 405),
        ("POST", "/shard/api/nodes/add/", 422),
        ("GET", "/v1/models/none", 404),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", "text/html"])
def test_every_answer_carries_the_headers_that_protect_its_reader(
    served: Served, method: str, path: str, status: int, accept: str
) -> None:
    body = {"json": {}} if method == "POST" else {}
    answer = served.client.request(method, path, headers={"accept": accept}, **body)
    assert answer.status_code in (status, 503 if path == "/health" else status)
    for name, value in SECURITY_HEADERS.items():
        if name == "Cache-Control" and path.startswith("/static/"):
            value = "no-cache"
        assert answer.headers[name] == value, name
    assert "server" not in answer.headers


def test_pages_may_load_and_run_nothing_from_elsewhere() -> None:
    policy = dict(part.strip().split(" ", 1) for part in SECURITY_HEADERS["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in SECURITY_HEADERS["Content-Security-Policy"]


def test_refusals_carry_them_too(served: Served) -> None:
    refused = served.client.get("/", headers={"host": "evil.example"})
    assert refused.status_code == 421
    assert {name: refused.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS


# --- errors ---


def test_an_error_is_json_or_a_page_as_it_is_asked_for(served: Served) -> None:
    for accept in ("application/json", "*/*", "", "text/html;q=0.5, application/json", "image/png", "text/html;q=x"):
        answer = served.client.get("/nothing/here", headers={"accept": accept})
        assert answer.headers["content-type"] == "application/json", accept
        assert set(answer.json()["error"]) == {"message", "advice", "type", "code"}
    for accept in ("text/html", "text/html,application/xhtml+xml,*/*;q=0.8", "application/json;q=0.1, TEXT/HTML"):
        answer = served.client.get("/nothing/here", headers={"accept": accept})
        assert answer.headers["content-type"] == "text/html; charset=utf-8", accept
        assert answer.status_code == 404 and "/nothing/here" in answer.text


def test_what_is_asked_for_is_shown_as_text(served: Served) -> None:
    status, page = get_raw(served, "/%3Cscript%3Ealert(1)%3C/script%3E", "Accept: text/html")
    assert status == 404
    assert "<script>alert" not in page and "&lt;script&gt;" in page


def test_a_wrong_method_says_which_is_right(served: Served) -> None:
    answer = served.client.put("/shard/api/nodes/status/")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert answer.json()["error"]["advice"]


def test_a_path_without_its_slash_is_led_to_the_one_with_it(served: Served) -> None:
    answer = served.client.get("/shard/api/nodes/status")
    assert answer.status_code == 307
    assert answer.headers["location"] == f"{served.url}/shard/api/nodes/status/"


def test_below_v1_errors_have_the_form_that_openais_clients_read(served: Served) -> None:
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/models", 405),
        ("POST", "/v1/completions", 400),
    ):
        answer = served.client.request(method, path, headers={"accept": "text/html"}, json={})
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_what_nobody_foresaw_is_told_without_its_secrets_and_logged(faulty: Served) -> None:
    for accept in ("application/json", "text/html"):
        answer = faulty.client.get("/broken", headers={"accept": accept})
        assert answer.status_code == 500
        assert "fault of Shardboard" in answer.text and "secret" not in answer.text and "Traceback" not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"
    told = {"at_least": "error", "text": "GET /broken failed"}
    wait_until(lambda: len(faulty.get("/shard/api/events/recent/", params=told)["events"]) == 2)
    assert 'route="/broken",status="500"} 2.0' in faulty.client.get("/metrics").text


def test_an_answer_that_breaks_off_is_no_whole_answer(faulty: Served) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        faulty.client.get("/torn")
    assert faulty.get("/")["nodes"] == [], "the server goes on"


# --- odd things that come in ---

LONG_AGO, AT_THE_END = "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"
HALF = "\ud800"
"""Half a character, which JSON can spell."""


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("nodes/add/", {"address": HALF, "key": "x"}, 422),
        ("nodes/add/", {"address": "x", "key": "x", HALF: 1}, 422),
        ("nodes/add/", {"address": "x\x00", "key": "k" * 40}, 400),
        ("nodes/add/", {"address": "x" * 301, "key": "k"}, 422),
        ("nodes/add/", ["address"], 422),
        ("nodes/add/", None, 422),
        ("nodes/drain/1/", {"draining": "perhaps"}, 422),
        ("nodes/drain/9223372036854775807/", {}, 404),
        ("nodes/drain/9223372036854775808/", {}, 422),
        ("nodes/drain/0/", {}, 422),
        ("nodes/drain/one/", {}, 422),
        ("models/add/", {"source": "x\x00"}, 400),
        ("models/add/", {"source": "x" * 999}, 400),
        ("models/add/", {"source": "~no-such-user/x"}, 400),
        ("models/add/", {"source": "/", "name": "../x"}, 400),
        ("models/add/", {"source": "/", "name": "con"}, 400),
        ("models/remove/%00/", {}, 404),
        ("models/remove/%ff/", {}, 404),
        ("sharding/submit/", {"model": HALF, "num_shards": 2}, 422),
        ("deployments/plan/", {"model": "x", "nodes": [2**70]}, 422),
        ("deployments/undeploy/%ED%A0%80/", {}, 404),
        ("runs/export/", {"ids": [HALF]}, 422),
        ("runs/export/", {"kind": "deployment", "ids": ["\x00"]}, 404),
        ("runs/export/", {"ids": ["9" * 30]}, 404),
        ("runs/export/", {"since": LONG_AGO, "until": AT_THE_END}, 200),
        ("runs/export/", {"since": "0001-01-01T00:00:00", "kind": "job"}, 200),
        ("runs/export/", {"since": AT_THE_END, "kind": "deployment"}, 200),
        ("runs/export/", {"since": "yesterday"}, 422),
        ("jobs/cancel/9223372036854775807/", {}, 404),
        ("inference/submit/", {"model": "x", "prompt": HALF}, 422),
        ("inference/submit/", {"model": "x", "messages": [{"role": "user", "content": HALF}]}, 422),
        ("inference/submit/", {"model": "x", "prompt": "x", "parameters": {"stop": [HALF]}}, 422),
        ("inference/submit/", {"model": "x", "prompt": "x", "parameters": {"constraint": {"kind": "yaml"}}}, 422),
        ("inference/submit/", {"model": "x", "prompt": "x", "parameters": {"temperature": float("nan")}}, 400),
        ("inference/submit/", {"model": "x\x00", "prompt": "x"}, 404),
    ],
)
def test_no_body_is_the_servers_fault(served: Served, path: str, body: object, status: int) -> None:
    content = json.dumps(body).encode()
    answer = served.client.post(f"/shard/api/{path}", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{no", "application/json", 422),
        (b"[" * 100_000, "application/json", 422),
        (b"\xff\xfe", "application/json", 422),
        (b"1" * 5_000, "application/json", 422),
        (b"<a/>", "application/xml", 415),
        (b"{}", "application/problem+json", 422),
        (b"{}", "Application/JSON; charset=utf-8", 422),
    ],
)
def test_no_content_is_the_servers_fault(served: Served, content: bytes, kind: str, status: int) -> None:
    headers = {"content-type": kind}
    assert served.client.post("/shard/api/nodes/add/", content=content, headers=headers).status_code == status
    for path in ("/shard/api/inference/submit/", "/v1/completions"):
        assert served.client.post(path, content=content, headers=headers).status_code in (400, 422)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/shard/api/events/recent/?since={LONG_AGO.replace('+', '%2B')}", 200),
        (f"/shard/api/events/recent/?until={AT_THE_END}", 200),
        ("/shard/api/events/recent/?since=0001-01-01&until=9999-12-31", 200),
        ("/shard/api/events/recent/?text=%00%25_%ff", 200),
        ("/shard/api/events/recent/?deployment_id=%ED%A0%80", 200),
        ("/shard/api/events/recent/?offset=2147483649", 422),
        ("/shard/api/events/recent/?limit=0", 422),
        ("/shard/api/events/recent/?limit=1&limit=2", 200),
        ("/shard/api/runs/export/?ids=", 200),
        ("/shard/api/runs/export/?ids=%00,%ff", 404),
        (f"/shard/api/runs/export/?kind=job&since={LONG_AGO.replace('+', '%2B')}", 200),
        ("/shard/api/runs/deployment/%00/", 404),
        ("/shard/api/runs/request/%C2%B2/", 404),
        (f"/shard/api/runs/job/{'9' * 40}/", 404),
        ("/shard/api/runs/nothing/1/", 422),
        ("/shard/runs/deployment/%3Cb%3E/", 404),
        ("/static/..%2f..%2fkeys.py", 404),
        ("/static/%00", 404),
        ("/%ff", 404),
        ("/v1/models/%00", 404),
        ("/login/?next=%ED%A0%80", 200),
    ],
)
def test_no_address_is_the_servers_fault(served: Served, path: str, status: int) -> None:
    assert served.client.get(path).status_code == status
