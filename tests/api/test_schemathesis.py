"""What /openapi.json promises is kept, whatever is sent: schemathesis makes up requests to every endpoint from it.

No request is the server's fault, no status is undocumented, and every answer is of the kind and the form it should be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from schemathesis import APIOperation, BaseSchema, Case, GenerationMode

from tests.api.serving import MODEL, Served, serving
from tests.e2e.conftest import System
from tests.sparsely import only

EXAMPLES = 8
"""Of each endpoint, five times as many in the long run; two of one that is asked without anything: all are the same."""
INTENDED = ["2xx", "3xx", "4xx", "503", "507"]
"""503: no node answers, or too much at a time; 507: no room. Both are documented, else another check would say so."""
ELSEWHERE = {"X-Forwarded-For": "192.0.2.7"}
"""The requests count as another machine's: folders of this one are none of their business."""
ANY_NAME = "/v1/models/{name}"
LONGEST_QUESTION = 4_000
"""A longer one, percent-encoded, is more than the head of a request may hold: then no answer has any form."""
LAUNCHING = "/shard/api/nodes/launch/"
"""Not asked at random: each answer would be up to 64 agents that start."""
ASKING = (
    "/v1/completions", "/v1/chat/completions", "/v1/responses", "/shard/api/inference/submit/",
    "/shard/api/deployments/plan/",
)  # fmt: skip
LIMITS = {
    "/v1/completions": ("max_tokens",),
    "/v1/chat/completions": ("max_tokens", "max_completion_tokens"),
    "/v1/responses": ("max_output_tokens",),
}


@pytest.fixture(scope="module")
def fuzzed(cluster: System) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as environment, serving(cluster) as served:
        environment.setenv("HF_ENDPOINT", "http://127.0.0.1:1")  # a made-up model is looked for nowhere
        yield served
        for run in cluster.controller.inference.running():
            cluster.run(run.cancel())


@pytest.fixture(scope="module")
def document(fuzzed: Served) -> BaseSchema:
    only_these = {
        "not_a_server_error": {"expected-statuses": INTENDED},
        "status_code_conformance": {"enabled": True},
        "content_type_conformance": {"enabled": True},
        "response_schema_conformance": {"enabled": True},
        "response_headers_conformance": {"enabled": True},
    }
    config = schemathesis.Config.from_dict(
        {
            "seed": 7,
            "checks": {"enabled": False, **only_these},
        }
    )
    return schemathesis.openapi.from_url(f"{fuzzed.url}/openapi.json", config=config)


@pytest.mark.parametrize("examples", only((EXAMPLES,), (EXAMPLES, 5 * EXAMPLES)))
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_as_documented(
    document: BaseSchema, fuzzed: Served, subtests: pytest.Subtests, mode: GenerationMode, examples: int
) -> None:
    """To what fits the schema of a request, and to what does not."""
    asked = 0
    for found in document.get_all_operations():
        operation = found.ok()
        if operation.path == LAUNCHING and not mode.is_negative:
            continue
        if mode.is_negative and (operation.path == ANY_NAME or not has_input(operation)):
            continue  # nothing could be wrong with it
        with subtests.test(operation.label):
            ask(operation, fuzzed, mode, examples)
        asked += 1
    assert asked > 25


def has_input(operation: APIOperation) -> bool:
    return bool(operation.path_parameters or operation.query or operation.body)


def ask(operation: APIOperation, served: Served, mode: GenerationMode, examples: int) -> None:
    @settings(
        max_examples=examples if has_input(operation) else 2, derandomize=True, database=None, deadline=None,
        phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(mode))
    def send(case: Case) -> None:
        assume(len(str(case.query)) < LONGEST_QUESTION and spares_what_others_need(case, served))
        if case.path in ASKING and isinstance(case.body, dict):
            case.body = tamed(case.body, case.path)
        case.call_and_validate(headers=ELSEWHERE)

    send()


def spares_what_others_need(case: Case, served: Served) -> bool:
    """Whether a request leaves the nodes, the model and its deployment alone."""
    registry = served.system.controller.registry
    nodes = [str(node.id) for node in served.system.nodes]
    wanted = {
        **{f"/shard/api/nodes/{verb}/{{node_id}}/": nodes for verb in ("remove", "drain", "update", "start", "stop")},
        "/shard/api/models/remove/{name}/": [MODEL],
        "/shard/api/models/measure/{name}/": [MODEL],
        "/shard/api/deployments/undeploy/{deployment_id}/": [one.id for one in registry.deployments.list()],
    }
    return all(str(value) not in wanted.get(case.path, ()) for value in (case.path_parameters or {}).values())


def tamed(body: dict[str, Any], path: str) -> dict[str, Any]:
    """The same request to the model that is there, for an answer of a few tokens."""
    body = dict(body)
    if isinstance(body.get("model"), str):
        body["model"] = MODEL
    if path.endswith("/plan/"):
        return body
    if isinstance(body.get("n"), int):
        body["n"] = min(body["n"], 2)
    if isinstance(body.get("prompt"), list):
        body["prompt"] = body["prompt"][:2]
    if "submit" in path:
        if isinstance(parameters := body.get("parameters", {}), dict):
            body["parameters"] = few(dict(parameters), "max_tokens")
        return body
    return few(body, *LIMITS[path])


def few(parameters: dict[str, Any], *names: str) -> dict[str, Any]:
    """At most three tokens, where the number would be allowed."""
    for name in names:
        most = parameters.get(name)
        if most is None or (isinstance(most, int) and most > 3):
            parameters[name] = 3
    return parameters


def test_the_document_is_whole(fuzzed: Served) -> None:
    document = fuzzed.get("/openapi.json")
    operations = [(method, path, one) for path, item in document["paths"].items() for method, one in item.items()]
    assert len(operations) > 35
    for method, path, operation in operations:
        assert operation.get("summary"), path
        responses = operation["responses"]
        assert any(status.startswith("2") for status in responses)
        described = all(answer.get("description") for answer in responses.values())
        assert described, path
        if not path.startswith("/health"):
            assert {"401", "421"} <= responses.keys(), "the door may answer anywhere"
        if method == "post":
            assert {"400", "403", "408", "413"} <= responses.keys(), path
            assert "application/json" in operation["requestBody"]["content"], path
