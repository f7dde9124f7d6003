import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from logging import LogRecord
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import RegistryError
from app.registry import Registry, RequestStatus


def test_a_request_is_followed_from_pending_to_completed(registry: Registry) -> None:
    added = registry.requests.add(
        model_name="m", prompt="What is the capital of France?", parameters={"seed": 2**62}, prompt_token_ids=[1, 2, 3]
    )
    assert (added.status, added.prompt_tokens, added.started_at, added.completed_at) == ("pending", 3, None, None)
    started = registry.requests.update(added.id, status=RequestStatus.PROCESSING, deployment_id="deadbeef")
    assert started.started_at is not None and started.started_at >= added.created_at
    done = registry.requests.update(
        added.id,
        status=RequestStatus.COMPLETED,
        result="Paris.",
        token_ids=[7, 8],
        finish_reason="stop",
        completion_tokens=2,
        timings={"first_token": 0.25},
    )
    assert done.completed_at is not None and done.completed_at >= started.started_at
    assert (done.prompt_token_ids, done.token_ids, done.parameters) == ((1, 2, 3), (7, 8), {"seed": 2**62})
    assert (done.result, done.timings, done.started_at) == ("Paris.", {"first_token": 0.25}, started.started_at)
    assert registry.requests.get(added.id) == done


@pytest.mark.parametrize("over", [RequestStatus.COMPLETED, RequestStatus.FAILED, RequestStatus.CANCELLED])
def test_what_is_over_stays_as_it_ended(registry: Registry, over: RequestStatus) -> None:
    request = registry.requests.add(model_name="m", prompt="p")
    ended = registry.requests.update(request.id, status=over, result="partial")
    for late in set(RequestStatus) - {over}:
        with pytest.raises(RegistryError, match=f"is {over} already and cannot become {late}"):
            registry.requests.update(request.id, status=late, result="late")
    assert registry.requests.get(request.id) == ended
    # What is found out later may still be added.
    assert registry.requests.update(request.id, timings={"total": 1.0}).completed_at == ended.completed_at


def test_requests_are_listed_newest_first_in_pages(registry: Registry) -> None:
    ids = [registry.requests.add(model_name=f"m{n % 2}", prompt=str(n)).id for n in range(7)]
    registry.requests.update(ids[3], status=RequestStatus.FAILED)
    assert [request.id for request in registry.requests.list()] == ids[::-1]
    assert [request.id for request in registry.requests.list(offset=2, limit=3)] == ids[::-1][2:5]
    assert registry.requests.list(offset=7) == registry.requests.list(limit=0) == []
    assert [request.id for request in registry.requests.list(status=RequestStatus.FAILED)] == [ids[3]]
    assert [request.id for request in registry.requests.list(model_name="m0")] == ids[::-2]
    assert registry.requests.count() == 7
    assert registry.requests.count(status=RequestStatus.PENDING) == 6
    assert registry.requests.count(status=RequestStatus.PENDING, model_name="m1") == 2


def test_old_requests_are_pruned_and_those_under_way_are_not(registry: Registry) -> None:
    over = registry.requests.add(model_name="m", prompt="over")
    registry.requests.update(over.id, status=RequestStatus.COMPLETED)
    under_way = registry.requests.add(model_name="m", prompt="under way")
    assert registry.requests.prune(over.created_at) == 0
    assert registry.requests.prune(datetime.now(UTC) + timedelta(seconds=1)) == 1
    assert [request.id for request in registry.requests.list()] == [under_way.id]
    assert registry.requests.remove(under_way.id).prompt == "under way"
    with pytest.raises(RegistryError, match="There is no request"):
        registry.requests.get(under_way.id)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


# The registry is not made anew for each example: they are rows of their own.
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompt=st.text(st.characters(), max_size=300),
    parameters=st.dictionaries(st.text(), JSON, max_size=4),
    token_ids=st.lists(st.integers(0, 2**31 - 1)),
)
def test_anything_that_can_be_asked_or_generated_can_be_kept(
    registry: Registry, prompt: str, parameters: dict[str, object], token_ids: list[int]
) -> None:
    request = registry.requests.add(model_name="m", prompt=prompt, parameters=parameters)
    ended = registry.requests.update(
        request.id, status=RequestStatus.FAILED, result=prompt, error=prompt, token_ids=token_ids
    )
    # NUL and lone surrogates are what not every database can hold.
    kept = re.sub("[\x00\ud800-\udfff]", "\ufffd", prompt)
    assert (ended.prompt, ended.result, ended.error) == (kept, kept, kept)
    assert ended.parameters == parameters
    assert ended.token_ids == tuple(token_ids)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry of 100,000 requests with long prompts, every tenth failed."""
    path = tmp_path_factory.mktemp("history") / "registry.sqlite3"
    Registry.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(
        """
        WITH RECURSIVE number(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM number WHERE i < 100000)
        INSERT INTO inference_request (model_name, prompt, result, status, parameters, prompt_token_ids, token_ids,
            prompt_tokens, completion_tokens, timings, created_at, origin, sequence)
        SELECT 'm' || (i % 3), hex(zeroblob(200)), hex(zeroblob(100)), iif(i % 10, 'completed', 'failed'), '{}', '[1]',
            '[2]', 1, 1, '{}', strftime('%Y-%m-%d %H:%M:%S', 1700000000 + i / 4, 'unixepoch') || '.000000', '{}', '{}'
        FROM number
        """
    )
    connection.commit()
    connection.close()
    return path


@pytest.mark.parametrize(
    ("status", "model_name"), [(None, None), (RequestStatus.FAILED, None), (None, "m1")], ids=["all", "failed", "m1"]
)
def test_a_late_page_of_a_long_history_is_found_in_an_index(
    history: Path, status: RequestStatus | None, model_name: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with Registry.open(history) as registry:
        caplog.set_level("DEBUG", "peewee")
        page = registry.requests.list(offset=9_000, limit=100, status=status, model_name=model_name)
        listing = caplog.records[-1]
        count = registry.requests.count(status=status, model_name=model_name)
        counting = caplog.records[-1]
    step = {(None, None): 1, (RequestStatus.FAILED, None): 10, (None, "m1"): 3}[status, model_name]
    assert [request.id for request in page] == list(range(100_000 - 9_000 * step, 100_000 - 9_100 * step, -step))
    assert count == -(-100_000 // step)
    plan, count_plan = query_plan(history, listing), query_plan(history, counting)
    # Rows are fetched by id only, and ids come, in order, out of an index that holds all that is asked.
    assert plan[0].startswith("SEARCH t1 USING INTEGER PRIMARY KEY"), plan
    assert "USING COVERING INDEX" in plan[2], plan
    assert plan[3:] == ["USE TEMP B-TREE FOR ORDER BY"], plan  # of the hundred rows of the page
    assert "USING COVERING INDEX" in count_plan[0], count_plan


def query_plan(file: Path, logged: LogRecord) -> list[str]:
    """How SQLite goes about a query that Peewee has logged, step by step."""
    sql, parameters = cast("tuple[str, list[object]]", logged.msg)
    with closing(sqlite3.connect(file)) as connection:
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]
