"""The routes, one room of them a file."""

from app.api.routes import (
    deployments,
    events,
    inference,
    jobs,
    login,
    models,
    nodes,
    pages,
    reference,
    runs,
    sharding,
    system,
)

ROOMS = tuple(
    room.router
    for room in (
        pages, login, reference, nodes, models, sharding, deployments, inference, runs, jobs, events, system
    )
)  # fmt: skip
