"""The registry: what Shardboard knows of nodes, models, deployments, shards, requests, events and jobs,
kept in a database.

The only package that speaks SQL. `Registry.open` is the one door; what comes out of it are frozen records.
"""

from typing import TYPE_CHECKING, Any

from app.registry.records import (
    ApiKeyRecord,
    ComparisonRecord,
    DeploymentRecord,
    DeploymentStatus,
    EventLevel,
    EventRecord,
    JobRecord,
    JobStatus,
    LinkRecord,
    MeasurementRecord,
    ModelRecord,
    NewComparison,
    NodeRecord,
    RequestLine,
    RequestRecord,
    RequestStatus,
    ResponseRecord,
    ShardRecord,
)

if TYPE_CHECKING:
    from app.registry.registry import Registry

__all__ = [
    "ApiKeyRecord",
    "ComparisonRecord",
    "DeploymentRecord",
    "DeploymentStatus",
    "EventLevel",
    "EventRecord",
    "JobRecord",
    "JobStatus",
    "LinkRecord",
    "MeasurementRecord",
    "ModelRecord",
    "NewComparison",
    "NodeRecord",
    "Registry",
    "RequestLine",
    "RequestRecord",
    "RequestStatus",
    "ResponseRecord",
    "ShardRecord",
]


def __getattr__(name: str) -> Any:
    """The database's libraries are loaded when the registry itself is asked for: the window needs its records first."""
    if name == "Registry":
        from app.registry.registry import Registry

        return Registry
    raise AttributeError(name)
