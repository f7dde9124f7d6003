"""Responses are kept with the requests that answer them, and go with them."""

from __future__ import annotations

from datetime import timedelta

from app.registry import Registry, RequestRecord, RequestStatus
from app.registry.fields import now


def answered(registry: Registry, response: str, text: str) -> RequestRecord:
    """A response that is over, to an input of this text."""
    request = registry.requests.add(model_name="smollm", prompt=text, prompt_token_ids=[1, 2])
    registry.responses.begin(response, request.id, {"input": text}).result()
    return registry.requests.update(request.id, status=RequestStatus.COMPLETED, result="Paris.", token_ids=[7])


def test_a_response_has_what_was_asked_and_which_request_answers_it(registry: Registry) -> None:
    request = answered(registry, "resp_1", "Hëllo")
    found = registry.responses.find("resp_1")
    assert found is not None
    assert (found.id, found.request_id, found.asked) == ("resp_1", request.id, {"input": "Hëllo"})
    assert found.created_at >= request.created_at
    assert registry.responses.find("resp_2") is None


def test_a_response_that_is_forgotten_takes_the_texts_of_its_request_along(registry: Registry) -> None:
    request, other = answered(registry, "resp_1", "one"), answered(registry, "resp_2", "two")
    registry.responses.forget("resp_1")
    assert registry.responses.find("resp_1") is None and registry.responses.find("resp_2") is not None
    left = registry.requests.get(request.id)
    assert (left.status, left.prompt, left.result, left.token_ids, left.prompt_token_ids) == (
        RequestStatus.COMPLETED, "", "", (), ()
    )  # fmt: skip
    assert registry.requests.get(other.id).result == "Paris."


def test_a_response_goes_when_its_request_is_too_old(registry: Registry) -> None:
    answered(registry, "resp_1", "one")
    assert registry.requests.prune(now() + timedelta(seconds=1)) == 1
    assert registry.responses.find("resp_1") is None


def test_what_was_asked_counts_among_the_texts_that_there_is_room_for(registry: Registry) -> None:
    request = answered(registry, "resp_1", "x" * 1000)
    assert registry.requests.total_bytes() > 2000, "once in the prompt, once in what was asked"
    kept = answered(registry, "resp_2", "y" * 1000)
    assert registry.requests.prune_to(registry.requests.total_bytes() - 1) == 1
    assert registry.responses.find("resp_1") is None and registry.responses.find("resp_2") is not None
    assert [record.id for record in registry.requests.list()] == [kept.id] != [request.id]
