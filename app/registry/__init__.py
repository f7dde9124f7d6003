"""The registry: what Shardboard knows of nodes, models, deployments, shards, requests, events and jobs,
kept in a database.

The only package that speaks SQL. `Registry.open` is the one door; what comes out of it are frozen records.
"""

from app.registry.records import (
    DeploymentRecord,
    DeploymentStatus,
    EventLevel,
    EventRecord,
    JobRecord,
    JobStatus,
    ModelRecord,
    NodeRecord,
    RequestLine,
    RequestRecord,
    RequestStatus,
    ShardRecord,
)
from app.registry.registry import Registry

__all__ = [
    "DeploymentRecord",
    "DeploymentStatus",
    "EventLevel",
    "EventRecord",
    "JobRecord",
    "JobStatus",
    "ModelRecord",
    "NodeRecord",
    "Registry",
    "RequestLine",
    "RequestRecord",
    "RequestStatus",
    "ShardRecord",
]
