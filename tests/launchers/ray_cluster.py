"""A real Ray cluster of several nodes on this machine, in a process of its own: Ray stays out of the tests' process.

Lines on its standard input: `add` (one more node of one CPU) and `kill PLACE` (that node's processes, at once); each is
answered by a line of JSON. It ends with its standard input.
"""

from __future__ import annotations

import json
import sys

STORE_BYTES = 80_000_000
"""The least that Ray takes; nothing goes into it."""


def main(count: int) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE_BYTES})
    nodes = {}

    def add() -> str:
        node = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        nodes[node.node_id] = node
        return str(node.node_id)

    said = {"address": cluster.address, "places": [add() for _ in range(count)]}
    print(json.dumps(said), flush=True)
    for line in sys.stdin:
        match line.split():
            case ["add"]:
                print(json.dumps(add()), flush=True)
            case ["kill", place]:
                cluster.remove_node(nodes.pop(place), allow_graceful=False)
                print(json.dumps(place), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
