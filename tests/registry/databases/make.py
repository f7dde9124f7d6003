"""Makes the stored registry of the present version: `python tests/registry/databases/make.py version_N.sqlite3`.

Run once for each released version that changes the tables; a stored registry is never made again.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from app.registry import DeploymentStatus, EventLevel, JobStatus, Registry, RequestStatus
from app.serving import Serving


def fill(registry: Registry) -> None:
    """A row or two of everything."""
    node = registry.nodes.add(
        hostname="älpha",
        ip_address="10.0.0.1",
        port=5670,
        public_key="rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7",
        agent_id="agent-1",
        capacities={"memory": 64 * 2**30},
    )
    registry.nodes.heartbeat(node.id, datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), True)
    registry.models.add(
        name="smollm",
        folder="/models/smollm",
        source="HuggingFaceTB/SmolLM2-135M-Instruct",
        architecture="LlamaForCausalLM",
        layers=30,
        parameters=134_515_008,
        weight_bytes=538_060_800,
        dtype="float32",
        context=8192,
    )
    registry.deployments.add(
        id="deadbeef",
        model_name="smollm",
        plan_hash="ab" * 32,
        serving=Serving("float32", 2048, 8192),
        epoch=2,
        status=DeploymentStatus.READY,
    )
    registry.deployments.next_epoch("deadbeef")
    registry.shards.add(
        model_name="smollm",
        shard_id=0,
        start_layer=0,
        end_layer=15,
        node_id=node.id,
        deployment_id="deadbeef",
        is_loaded=True,
    )
    registry.shards.add(model_name="smollm", shard_id=1, start_layer=15, end_layer=30, path="/shards/shard_1")
    request = registry.requests.add(
        model_name="smollm",
        prompt="What is the capital of France?",
        parameters={"temperature": 0.0, "seed": 7},
        deployment_id="deadbeef",
        prompt_token_ids=(1, 2, 3),
    )
    registry.requests.update(request.id, status=RequestStatus.PROCESSING)
    registry.requests.update(
        request.id,
        status=RequestStatus.COMPLETED,
        result="Paris.",
        token_ids=(7042, 30),
        completion_tokens=2,
        finish_reason="stop",
        timings={"first_token": 0.25},
    )
    registry.events.add(EventLevel.INFO, "nodes", "node added", node_id=node.id, details={"by": "invite"})
    job = registry.jobs.add(
        kind="cut", title="Cut smollm into 2 shards", model_name="smollm", details={"ranges": [[0, 15], [15, 30]]}
    )
    registry.jobs.update(job.id, status=JobStatus.RUNNING)
    registry.jobs.update(job.id, status=JobStatus.DONE, details={"ranges": [[0, 15], [15, 30]], "bytes": 538_060_800})


if __name__ == "__main__":
    target = Path(__file__).parent / sys.argv[1]
    if target.exists():
        sys.exit(f"{target} is stored already")
    with Registry.open(target) as opened:
        fill(opened)
    target.with_name(target.name + ".lock").unlink()
