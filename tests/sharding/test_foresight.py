"""What is foreseen uses what was measured of nodes and links, and says what had to be assumed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from app.registry import LinkRecord, NodeRecord
from app.serving import Serving
from app.sharding.foresight import foreseen, foretell, link_speeds
from app.sharding.prediction import HAND_OVER_SECONDS, NETWORK_BYTES_PER_SECOND, LinkSpeed
from tests.models.described import invented

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MODEL = invented([1_000_000] * 2)
SERVING = Serving(dtype="bfloat16", context=1024, kv_tokens=2048)
SPEEDS = {"speeds": [{"dtype": "bfloat16", "read_bytes_per_second": 1e9, "flops_per_second": 1e10}]}


def a_node(number: int, address: str = "", capacities: dict[str, object] = SPEEDS) -> NodeRecord:
    place = address or f"10.0.0.{number}"
    return NodeRecord(
        number, f"n{number}", place, 7600, f"k{number}", "", True, False, None, capacities, None, NOON, NOON
    )


def a_link(outcome: str = "measured", rtt: float | None = 0.004, id: int = 1) -> LinkRecord:
    return LinkRecord(id, 1, 2, outcome, "", rtt, rtt, 0.0, 0.0, 50e6 if rtt else None, 1448, NOON)


STAGES = [(0, 1, a_node(1)), (1, 2, a_node(2))]


def test_the_newest_measurement_of_a_direction_counts_and_one_that_failed_says_nothing() -> None:
    newer, older = a_link(rtt=0.008, id=2), a_link(rtt=0.002, id=1)
    assert link_speeds([newer, older]) == {(1, 2): LinkSpeed(0.008, 50e6)}
    assert link_speeds([a_link("silent", rtt=None, id=3), newer]) == {}


def test_measured_links_take_the_place_of_the_controllers_round_trips_direction_by_direction() -> None:
    trips = {1: 0.040, 2: 0.060}
    guessed = foretell(MODEL, SERVING, STAGES, round_trips=trips, links={})
    known = foretell(MODEL, SERVING, STAGES, round_trips=trips, links=link_speeds([a_link()]))
    assert guessed is not None and known is not None
    assert (guessed.assumed_hops, known.assumed_hops) == ((0, 1), (1,))
    saved = 1 / guessed.tokens_per_second - 1 / known.tokens_per_second
    assert saved == pytest.approx(0.030 - 0.002 - HAND_OVER_SECONDS)


def test_a_measured_bandwidth_carries_the_prompt() -> None:
    def first(rate: float) -> float:
        links = {(1, 2): LinkSpeed(0.001, rate), (2, 1): LinkSpeed(0.001, 1e9)}
        found = foretell(MODEL, SERVING, STAGES, round_trips={}, links=links, prompt_tokens=100)
        assert found is not None
        return found.first_token_seconds

    state = 100 * MODEL.hidden_size * 2
    assert first(1e6) - first(1e9) == pytest.approx(state / 1e6 - state / 1e9)


def test_what_was_assumed_is_said_with_the_nodes_names() -> None:
    found = foretell(MODEL, SERVING, STAGES, round_trips={}, links=link_speeds([a_link()]))
    assert found is not None
    told = foreseen(found, [node for _, _, node in STAGES], SERVING)
    (sentence,) = told.assumed
    assert "n2 to n1" in sentence and "n1 to n2" not in sentence
    assert f"{NETWORK_BYTES_PER_SECOND / 1e6:.0f} MB/s" in sentence and "doctor --links" in sentence
    assert told.first_token_us == round(found.first_token_seconds * 1e6)
    both = {(1, 2): LinkSpeed(0.001, 1e8), (2, 1): LinkSpeed(0.001, 1e8)}
    measured = foretell(MODEL, SERVING, STAGES, round_trips={}, links=both)
    assert measured is not None and foreseen(measured, [node for _, _, node in STAGES], SERVING).assumed == ()


def test_agents_of_one_machine_are_said_to_be_such() -> None:
    nodes = [a_node(1, "127.0.0.1"), a_node(2, "127.0.0.1")]
    found = foretell(MODEL, SERVING, [(0, 1, nodes[0]), (1, 2, nodes[1])], round_trips={}, links={})
    assert found is not None and "one machine" in foreseen(found, nodes, SERVING).assumed[0]


def test_one_node_alone_assumes_nothing_and_one_that_has_not_measured_itself_is_not_predicted() -> None:
    alone = foretell(MODEL, SERVING, [(0, 2, a_node(1))], round_trips={}, links={})
    assert alone is not None and alone.assumed_hops == ()
    assert foretell(MODEL, SERVING, [(0, 2, a_node(1, capacities={}))], round_trips={}, links={}) is None
