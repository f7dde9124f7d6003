from datetime import UTC, datetime, timedelta, timezone

import pytest

from app.errors import RegistryError
from app.registry import NodeRecord, Registry


def test_a_node_comes_back_as_it_was_added(registry: Registry) -> None:
    added = registry.nodes.add(
        hostname="bode",
        ip_address="192.168.1.7",
        port=5671,
        public_key="rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7",
        agent_id="a1",
        capacities={"memory": 64 * 2**30, "gpus": [{"name": "H100"}]},
        local_pid=4242,
    )
    assert registry.nodes.get(added.id) == added
    assert registry.nodes.list() == [added]
    assert added.address == "tcp://192.168.1.7:5671"
    assert added.capacities == {"memory": 64 * 2**30, "gpus": [{"name": "H100"}]}
    assert (added.is_active, added.draining, added.last_heartbeat) == (False, False, None)
    assert added.created_at.tzinfo is UTC
    assert datetime.now(UTC) - added.created_at < timedelta(minutes=1)


def test_an_ipv6_address_stands_in_brackets(registry: Registry) -> None:
    node = registry.nodes.add(hostname="six", ip_address="fe80::1", port=1, public_key="k")
    assert node.address == "tcp://[fe80::1]:1"
    assert registry.nodes.find("[fe80::1]:1") == node
    assert registry.nodes.find("fe80::1") == node


@pytest.mark.parametrize("text", ["1", "alpha", "10.0.0.1", "alpha:5670", "10.0.0.1:5670", "tcp://10.0.0.1:5670"])
def test_a_node_is_found_by_any_of_its_names(registry: Registry, node: NodeRecord, text: str) -> None:
    assert registry.nodes.find(text) == node


@pytest.mark.parametrize("text", ["2", "beta", "alpha:5671", "alpha:99999999999", "9" * 30, "", "'; DROP TABLE x; --"])
def test_a_name_of_no_node_is_an_error_that_says_so(registry: Registry, node: NodeRecord, text: str) -> None:
    with pytest.raises(RegistryError, match="There is no node") as raised:
        registry.nodes.find(text)
    assert "node list" in raised.value.advice


def test_a_name_of_two_nodes_is_an_error_that_names_both(registry: Registry, node: NodeRecord) -> None:
    other = registry.nodes.add(hostname="alpha", ip_address="10.0.0.1", port=5671, public_key="another key")
    with pytest.raises(RegistryError, match=r"any of 2 nodes: 1 \(tcp://10.0.0.1:5670\), 2 \(tcp://10.0.0.1:5671\)"):
        registry.nodes.find("alpha")
    assert registry.nodes.find("alpha:5671") == other


def test_an_address_belongs_to_one_node(registry: Registry, node: NodeRecord) -> None:
    with pytest.raises(RegistryError, match=r"10.0.0.1:5670 is node 1's \(alpha\) already"):
        registry.nodes.add(hostname="beta", ip_address="10.0.0.1", port=5670, public_key="another key")
    assert registry.nodes.list() == [node]


def test_a_key_belongs_to_one_node(registry: Registry, node: NodeRecord) -> None:
    with pytest.raises(RegistryError, match="has the key of node 1"):
        registry.nodes.add(hostname="beta", ip_address="10.0.0.2", port=5670, public_key=node.public_key)
    other = registry.nodes.add(hostname="beta", ip_address="10.0.0.2", port=5670, public_key="another key")
    with pytest.raises(RegistryError, match="has the key of node 1"):
        registry.nodes.update(other.id, public_key=node.public_key)


def test_an_update_changes_only_what_it_names(registry: Registry, node: NodeRecord) -> None:
    changed = registry.nodes.update(node.id, draining=True, port=7000)
    assert (changed.draining, changed.port, changed.hostname) == (True, 7000, "alpha")
    assert changed.created_at == node.created_at
    assert changed.updated_at > node.updated_at
    assert registry.nodes.get(node.id) == changed


def test_a_field_that_does_not_exist_cannot_be_changed(registry: Registry, node: NodeRecord) -> None:
    with pytest.raises(TypeError, match="'colour'"):
        registry.nodes.update(node.id, colour="red")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'id'"):
        registry.nodes.update(node.id, **{"id": 7})  # type: ignore[arg-type]


def test_a_heartbeat_is_kept_in_utc_and_silence_keeps_the_last_one(registry: Registry, node: NodeRecord) -> None:
    heard = datetime(2030, 1, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=5)))
    assert registry.nodes.heartbeat(node.id, heard, True)
    kept = registry.nodes.get(node.id).last_heartbeat
    assert kept == heard
    assert str(kept) == "2030-01-01 07:00:00.123456+00:00"
    assert registry.nodes.heartbeat(node.id, heard + timedelta(seconds=5), False)
    silent = registry.nodes.get(node.id)
    assert (silent.is_active, silent.last_heartbeat) == (False, heard)


def test_a_heartbeat_of_a_node_that_was_just_removed_is_no_error(registry: Registry, node: NodeRecord) -> None:
    registry.nodes.remove(node.id)
    assert not registry.nodes.heartbeat(node.id, datetime.now(UTC), True)


def test_a_time_without_a_zone_is_refused(registry: Registry, node: NodeRecord) -> None:
    with pytest.raises(ValueError, match="timezone-aware"):
        registry.nodes.heartbeat(node.id, datetime(2030, 1, 1), True)


def test_removing_a_node_removes_the_shards_on_it_and_no_others(registry: Registry, node: NodeRecord) -> None:
    other = registry.nodes.add(hostname="beta", ip_address="10.0.0.2", port=5670, public_key="key of beta")
    registry.shards.add(model_name="m", shard_id=0, start_layer=0, end_layer=4, node_id=node.id)
    kept = registry.shards.add(model_name="m", shard_id=1, start_layer=4, end_layer=8, node_id=other.id)
    unplaced = registry.shards.add(model_name="m", shard_id=2, start_layer=8, end_layer=9, path="/shards/shard_2")
    assert registry.nodes.remove(node.id) == node
    assert registry.shards.list() == [kept, unplaced]
    with pytest.raises(RegistryError, match=f"There is no node {node.id}"):
        registry.nodes.get(node.id)
    with pytest.raises(RegistryError, match=f"There is no node {node.id}"):
        registry.nodes.remove(node.id)


def test_the_id_of_a_removed_node_is_never_given_again(registry: Registry, node: NodeRecord) -> None:
    registry.nodes.remove(node.id)
    again = registry.nodes.add(hostname="alpha", ip_address="10.0.0.1", port=5670, public_key=node.public_key)
    assert again.id > node.id


def test_beats_of_many_nodes_are_written_at_once_and_each_as_it_was(registry: Registry) -> None:
    nodes = [
        registry.nodes.add(hostname=f"n{number}", ip_address="10.1.0.1", port=number, public_key=f"k{number}")
        for number in range(1, 4)
    ]
    heard, before = datetime(2030, 1, 1, tzinfo=UTC), datetime(2029, 12, 31, tzinfo=UTC)
    registry.nodes.heartbeat(nodes[1].id, before, True)
    registry.nodes.heartbeats({
        nodes[0].id: (heard - timedelta(seconds=0.1), True), nodes[1].id: (before, False), nodes[2].id: (heard, True),
        10_000: (heard, True),
    })  # fmt: skip
    found = [registry.nodes.get(node.id) for node in nodes]
    assert [(node.is_active, node.last_heartbeat) for node in found] == [(True, heard), (False, before), (True, heard)]
