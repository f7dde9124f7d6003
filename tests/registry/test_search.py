"""Long listings: what they can be narrowed down to, where a row stands in them, and that they stay where they are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.errors import RegistryError
from app.registry import DeploymentStatus, EventLevel, JobStatus, Registry, RequestStatus
from app.serving import Serving

NOON = datetime(2030, 6, 1, 12, tzinfo=UTC)


def prompts(registry: Registry, text: str) -> list[str]:
    found = [request.prompt for request in registry.requests.list(text=text)]
    assert registry.requests.count(text=text) == len(found)
    return found


def test_text_is_found_in_prompts_answers_and_errors_whatever_its_case(registry: Registry) -> None:
    asked = registry.requests.add(model_name="m", prompt="What is the capital of France?")
    registry.requests.update(asked.id, result="Paris.")
    failed = registry.requests.add(model_name="m", prompt="Hello")
    registry.requests.update(failed.id, status=RequestStatus.FAILED, error="alpha is gone")
    for text in ("CAPITAL of", "paris", "ALPHA"):
        assert len(prompts(registry, text)) == 1, text
    assert prompts(registry, "nothing of the kind") == []
    assert len(prompts(registry, "")) == 2


def test_wildcards_are_letters_like_any_other(registry: Registry) -> None:
    for prompt in ("100 % sure", "100 per cent", "snake_case", "snakeXcase", r"back\slash"):
        registry.requests.add(model_name="m", prompt=prompt)
    assert prompts(registry, "0 %") == ["100 % sure"]
    assert prompts(registry, "e_c") == ["snake_case"]
    assert prompts(registry, "k\\s") == [r"back\slash"]


def test_letters_beyond_ascii_are_found_in_the_other_case_too(registry: Registry) -> None:
    registry.requests.add(model_name="m", prompt="Wie heißt die ÖFFNUNG?")
    registry.requests.add(model_name="m", prompt="Öffnung")
    assert len(prompts(registry, "öffnung")) == 2


def test_requests_of_some_states_and_of_a_time(registry: Registry) -> None:
    ids = [registry.requests.add(model_name=f"m{n % 2}", prompt=str(n)).id for n in range(6)]
    registry.requests.update(ids[1], status=RequestStatus.FAILED)
    registry.requests.update(ids[2], status=RequestStatus.CANCELLED)
    ended = {RequestStatus.FAILED, RequestStatus.CANCELLED}
    assert [request.id for request in registry.requests.list(status=ended)] == [ids[2], ids[1]]
    assert registry.requests.count(status=ended, model_name="m1") == 1
    assert registry.requests.count(status=set()) == 0
    since, until = (registry.requests.get(ids[n]).created_at for n in (2, 4))
    assert [request.id for request in registry.requests.list(since=since, until=until)] == [ids[3], ids[2]]
    assert registry.requests.models() == ("m0", "m1")


def test_a_listing_up_to_an_id_stays_where_it_is(registry: Registry) -> None:
    ids = [registry.requests.add(model_name="m", prompt=str(n)).id for n in range(5)]
    anchor = registry.requests.newest()
    assert anchor == ids[-1]
    registry.requests.add(model_name="m", prompt="later")
    page = registry.requests.list(last_id=anchor, offset=1, limit=2)
    assert [request.id for request in page] == [ids[3], ids[2]]
    assert (registry.requests.count(last_id=anchor), registry.requests.count(after_id=anchor)) == (5, 1)


def test_a_position_is_the_row_of_the_listing(registry: Registry) -> None:
    for n in (3, 1, 2, 2, 0):
        level = EventLevel.WARNING if n == 2 else EventLevel.INFO
        registry.events.add(level, "test", str(n), at=NOON + timedelta(minutes=n))
    for query in ({}, {"level": EventLevel.WARNING}, {"at_least": EventLevel.INFO, "text": "2"}):
        listed = registry.events.list(**query)
        assert [registry.events.position(event.id, **query) for event in listed] == list(range(len(listed)))
    assert registry.events.position(1, level=EventLevel.WARNING) is None
    assert registry.events.position(99) is None


def test_events_of_a_level_or_worse_and_of_a_source(registry: Registry) -> None:
    for level in EventLevel:
        registry.events.add(level, "health" if level is EventLevel.ERROR else "nodes", f"{level} news")
    assert [event.level for event in registry.events.list(at_least=EventLevel.WARNING)] == ["error", "warning"]
    assert registry.events.count(at_least=EventLevel.DEBUG) == 4
    assert registry.events.count(at_least=EventLevel.INFO, source="nodes") == 2
    assert registry.events.sources() == ("health", "nodes")


def test_a_line_is_a_request_without_what_is_long(registry: Registry) -> None:
    request = registry.requests.add(model_name="m", prompt="long " * 1000, prompt_token_ids=range(1000))
    (line,) = registry.requests.lines()
    assert (line.id, line.prompt_tokens, line.created_at) == (request.id, 1000, request.created_at)
    assert request.prompt.startswith(line.prompt) and 200 <= len(line.prompt) <= 300
    assert registry.requests.lines(text="short") == []


def test_a_job_is_followed_to_its_end_and_stays_as_it_ended(registry: Registry) -> None:
    told: list[str] = []
    registry.on_changed(told.append)
    job = registry.jobs.add(kind="cut", title="Cut smollm into 2 shards", model_name="smollm")
    assert (job.status, job.started_at) == (JobStatus.QUEUED, None)
    started = registry.jobs.update(job.id, status=JobStatus.RUNNING)
    done = registry.jobs.update(job.id, status=JobStatus.DONE, details={"bytes": 5})
    assert done.started_at == started.started_at is not None and done.completed_at is not None
    with pytest.raises(RegistryError, match="is done already and cannot become failed"):
        registry.jobs.update(job.id, status=JobStatus.FAILED)
    assert registry.jobs.list() == [registry.jobs.get(job.id)] == [done]
    assert told == ["job"] * 3


def test_jobs_are_searched_counted_and_pruned(registry: Registry) -> None:
    cut = registry.jobs.add(kind="cut", title="Cut smollm", status=JobStatus.RUNNING)
    add = registry.jobs.add(kind="add", title="Add Qwen")
    registry.jobs.update(add.id, status=JobStatus.FAILED, error="No such repository.")
    assert cut.started_at is not None
    assert [job.id for job in registry.jobs.list(text="REPOSITORY")] == [add.id]
    assert registry.jobs.count(kind="cut") == registry.jobs.count(status={JobStatus.RUNNING}) == 1
    assert (registry.jobs.position(cut.id), registry.jobs.newest()) == (1, add.id)
    assert registry.jobs.prune(datetime.now(UTC) + timedelta(seconds=1)) == 1
    assert registry.jobs.list() == [cut] and registry.jobs.remove(cut.id) == cut


def test_jobs_that_died_with_the_program_are_marked(location: str) -> None:
    with Registry.open(location) as registry:
        job = registry.jobs.add(kind="add", title="Add a model", status=JobStatus.RUNNING)
    with Registry.open(location) as registry:
        ended = registry.jobs.get(job.id)
        assert ended.status is JobStatus.FAILED and ended.error and ended.completed_at is not None
        assert registry.events.list()[0].details == {"requests": 0, "deployments": [], "jobs": 1}


def test_deployments_are_searched(registry: Registry) -> None:
    for number, status in enumerate((DeploymentStatus.READY, DeploymentStatus.FAILED)):
        registry.deployments.add(
            id=f"deadbee{number}", model_name="Smollm", plan_hash="", serving=Serving("float32", 1, 1),
            status=status,
        )  # fmt: skip
    assert [record.id for record in registry.deployments.list(text="smollm")] == ["deadbee0", "deadbee1"]
    ended = {DeploymentStatus.FAILED, DeploymentStatus.UNLOADED}
    assert [record.id for record in registry.deployments.list(status=ended)] == ["deadbee1"]
