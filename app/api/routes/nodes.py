"""Nodes: which there are and how they are, add one, find one, remove one, have one take no new work."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Path, Query, Request
from starlette.responses import Response

from app.api.agents import brought_node
from app.api.bodies import (
    AddNode,
    DrainNode,
    Invite,
    Launch,
    MeasureLinks,
    MeetingCode,
    Nothing,
    accepts,
    body_of,
    done,
)
from app.api.job_views import JobView
from app.api.launcher_views import LauncherList, LauncherView
from app.api.link_views import LinkList, LinkView
from app.api.machine_views import LogView
from app.api.meeting_views import Ended, InvitationView, MeetingView, WaitingList, WaitingView
from app.api.routes.jobs import begin_job, check_room
from app.api.security import Caller, Room
from app.api.state import Number, TheController, node_views
from app.api.views import ALWAYS, NodeList, NodeView, errors
from app.cluster.invitations import INVITATION_PORT, JoinCommand
from app.cluster.node_state import NodeState
from app.errors import BadInput, Conflict, NodeError, RegistryError
from app.finding import begin_meeting, confirm_meeting, end_meeting, find_machines
from app.jobs.inviting import InviteWork
from app.jobs.launching import LaunchWork, UpdateWork
from app.jobs.probing import LinksWork
from app.launchers.launcher import LocalWish, RayWish, Wish
from app.launching import launchers
from worker_agent.wire.announcing import network_address

router = Room(prefix="/shard/api/nodes", tags=["nodes"], responses=errors(*ALWAYS))

PAGE = "/shard/nodes/"
WAITING_SECONDS = 3.0
MOST_LOG_BYTES = 2**20
MeetingId = Annotated[str, Path(min_length=1, max_length=40)]


@router.get("/status/", summary="All nodes")
async def status(controller: TheController) -> NodeList:
    """Every node with what its agent said in its last beat, at most a second or so ago."""
    return NodeList(nodes=await node_views(controller))


@router.post(
    "/add/", status_code=201, summary="Add a node",
    responses={201: {"model": NodeView}, **errors(400, 409, 415, 422, 507)}, openapi_extra=body_of(AddNode),
)  # fmt: skip
async def add(
    request: Request, controller: TheController, body: Annotated[AddNode, Depends(accepts(AddNode))]
) -> Response:
    """Check an agent and register it. An agent that was registered at another address is moved to this one."""
    try:
        record = await controller.add_node(body.address, body.key)
    except NodeError as error:
        # What was given leads to no agent that lets us in; nothing is wrong with this server.
        raise BadInput(error.message, error.advice) from error
    except RegistryError as error:
        if error.__cause__ is not None:
            raise
        raise Conflict(error.message, error.advice) from None
    return done(request, NodeView.of(controller, record), PAGE, 201)


@router.get("/waiting/", summary="Machines that wait to be found", responses=errors(503))
async def waiting(controller: TheController) -> WaitingList:
    """Looks on this network for three seconds. Nobody is trusted for being seen: meet one, and give its code."""
    found = await find_machines(controller, WAITING_SECONDS)
    return WaitingList(machines=[WaitingView.of(agent) for agent in found])


@router.post(
    "/meet/", status_code=201, summary="Meet an agent that waits",
    responses={201: {"model": MeetingView}, **errors(400, 415, 422)}, openapi_extra=body_of(AddNode),
)  # fmt: skip
async def meet(
    request: Request, controller: TheController, body: Annotated[AddNode, Depends(accepts(AddNode))]
) -> Response:
    """The agent shows a code then. The meeting is over after three minutes."""
    try:
        meeting = await begin_meeting(controller, body.address, body.key)
    except NodeError as error:
        raise BadInput(error.message, error.advice) from error
    return done(request, MeetingView.of(meeting), PAGE, 201)


@router.post(
    "/meet/{meeting}/confirm/", status_code=201, summary="Give the code that the agent shows",
    responses={201: {"model": NodeView}, **errors(400, 409, 415, 422, 507)}, openapi_extra=body_of(MeetingCode),
)  # fmt: skip
async def confirm(
    request: Request,
    controller: TheController,
    meeting: MeetingId,
    body: Annotated[MeetingCode, Depends(accepts(MeetingCode))],
) -> Response:
    """Waits until it is confirmed at the agent, too, and the agent has started; then it is a node."""
    try:
        record = await confirm_meeting(controller, meeting, body.code)
    except NodeError as error:
        raise Conflict(error.message, error.advice) from error
    except RegistryError as error:
        if error.__cause__ is not None:
            raise
        raise Conflict(error.message, error.advice) from None
    return done(request, NodeView.of(controller, record), PAGE, 201)


@router.post(
    "/meet/{meeting}/end/", summary="End a meeting",
    responses={200: {"model": Ended}, **errors(400, 415, 422)}, openapi_extra=body_of(Nothing),
)  # fmt: skip
async def end(
    request: Request, controller: TheController, meeting: MeetingId, body: Annotated[Nothing, Depends(accepts(Nothing))]
) -> Response:
    """If it is under way. The agent waits on."""
    await end_meeting(controller, meeting)
    return done(request, Ended(ended=meeting), PAGE)


@router.post(
    "/remove/{node_id}/", summary="Remove a node",
    responses={200: {"model": NodeView}, **errors(400, 404, 415, 422, 507)}, openapi_extra=body_of(Nothing),
)  # fmt: skip
async def remove(
    request: Request, controller: TheController, node_id: Number, body: Annotated[Nothing, Depends(accepts(Nothing))]
) -> Response:
    """Take down the deployments that need it, unload what it holds, and forget it.

    Its agent is ended when it was started by this controller. A node that cannot be reached is removed all the same.
    """
    record = await controller.remove_node(str(node_id))
    view = NodeView.of(controller, record)
    view.state, view.problem = NodeState.DOWN, "It was removed."
    return done(request, view, PAGE)


@router.post(
    "/drain/{node_id}/", summary="Have a node take no new work",
    responses={200: {"model": NodeView}, **errors(400, 404, 415, 422, 507)}, openapi_extra=body_of(DrainNode),
)  # fmt: skip
async def drain(
    request: Request,
    controller: TheController,
    origin: Caller,
    node_id: Number,
    body: Annotated[DrainNode, Depends(accepts(DrainNode))],
) -> Response:
    """What it runs goes on, there or, with `move`, on other nodes: then this is answered when it has moved.

    With `draining` false it takes new work again."""
    record = await controller.drain_node(str(node_id), body.draining, body.move, origin=origin)
    return done(request, NodeView.of(controller, record), PAGE)


@router.post(
    "/start/{node_id}/", summary="Start a node's agent again",
    responses={200: {"model": NodeView}, **errors(400, 404, 409, 415, 422, 503, 507)}, openapi_extra=body_of(Nothing),
)  # fmt: skip
async def start(
    request: Request,
    controller: TheController,
    origin: Caller,
    node_id: Number,
    body: Annotated[Nothing, Depends(accepts(Nothing))],
) -> Response:
    """Of one that a launcher has brought and that was ended. What it held loads with the next request."""
    node = await brought_node(controller, node_id)
    return done(request, NodeView.of(controller, await controller.start_agent(node.id, origin=origin)), PAGE)


@router.post(
    "/stop/{node_id}/", summary="End a node's agent",
    responses={200: {"model": NodeView}, **errors(400, 404, 409, 415, 422, 503, 507)}, openapi_extra=body_of(Nothing),
)  # fmt: skip
async def stop(
    request: Request,
    controller: TheController,
    origin: Caller,
    node_id: Number,
    body: Annotated[Nothing, Depends(accepts(Nothing))],
) -> Response:
    """Of one that a launcher has brought. The node stays, with its key and the layers on its disk."""
    node = await brought_node(controller, node_id)
    return done(request, NodeView.of(controller, await controller.stop_agent(node.id, origin=origin)), PAGE)


@router.get("/log/{node_id}/", summary="What a node's agent has logged", responses=errors(404, 422, 503))
async def agent_log(
    controller: TheController,
    node_id: Number,
    max_bytes: Annotated[int, Query(ge=1, le=MOST_LOG_BYTES)] = 200_000,
) -> LogView:
    """The last whole lines of its log, asked of the agent now."""
    await controller.registry.call(lambda known: known.nodes.get(node_id))
    return LogView(node_id=node_id, text=await controller.read_agent_log(node_id, max_bytes))


@router.post(
    "/update/{node_id}/", status_code=202, summary="Start a node's agent with today's program",
    responses={202: {"model": JobView}, **errors(400, 404, 409, 415, 422, 503, 507)}, openapi_extra=body_of(Nothing),
)  # fmt: skip
async def update(
    request: Request,
    controller: TheController,
    origin: Caller,
    node_id: Number,
    body: Annotated[Nothing, Depends(accepts(Nothing))],
) -> Response:
    """Of one that a launcher has brought. Begins a job that ends the agent and starts it again, and returns it.

    What it held is loaded again from its disk."""
    node = await brought_node(controller, node_id)
    return done(request, await begin_job(controller, UpdateWork(node.id, node.hostname), origin), PAGE, 202)


@router.get("/links/", summary="The links between nodes")
async def links(controller: TheController) -> LinkList:
    """Each direction as it was measured last, with what is wrong with it and what has changed since the time before."""
    return LinkList(links=[LinkView.of(finding) for finding in await controller.link_findings()])


@router.post(
    "/links/measure/", status_code=202, summary="Measure the links between nodes",
    responses={202: {"model": JobView}, **errors(400, 404, 409, 415, 422, 507)}, openapi_extra=body_of(MeasureLinks),
)  # fmt: skip
async def measure_links(
    request: Request,
    controller: TheController,
    origin: Caller,
    body: Annotated[MeasureLinks, Depends(accepts(MeasureLinks))],
) -> Response:
    """Begins a job that measures each direction between the agents, one after another, and returns it."""
    await controller.registry.call(lambda known: [known.nodes.get(node) for node in body.nodes or ()])
    work = LinksWork(None if body.nodes is None else tuple(body.nodes))
    return done(request, await begin_job(controller, work, origin), PAGE, 202)


@router.post(
    "/invite/", status_code=202, summary="Invite a machine",
    responses={202: {"model": InvitationView}, **errors(400, 409, 415, 422, 503, 507)}, openapi_extra=body_of(Invite),
)  # fmt: skip
async def invite(
    request: Request, controller: TheController, origin: Caller, body: Annotated[Invite, Depends(accepts(Invite))]
) -> Response:
    """Begins a job that waits for one agent to join, ten minutes at most, and returns the commands that start one.

    This answer alone has them, each works once, and cancelling the job makes them void."""
    place = body.listen or f"{network_address() or '127.0.0.1'}:{INVITATION_PORT}"
    command: asyncio.Future[JoinCommand] = asyncio.get_running_loop().create_future()
    work = InviteWork(place, body.reachable_as, command.set_result)
    check_room(controller)
    job = await controller.jobs.submit(work, origin)
    either: set[asyncio.Future[Any]] = {command, job.over}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not command.done():
        raise job.failure or Conflict("The invitation was cancelled before it could be told.")
    return done(request, InvitationView.of(job.id, command.result()), PAGE, 202)


@router.get("/launchers/", summary="What can bring agents to machines")
async def list_launchers(controller: TheController) -> LauncherList:
    """This machine, SSH and Ray: whether each can be used, and the nodes that it has brought."""
    return LauncherList(launchers=[LauncherView.of(state) for state in await launchers(controller)])


@router.post(
    "/launch/", status_code=202, summary="Bring agents to machines",
    responses={202: {"model": JobView}, **errors(400, 409, 415, 422, 503, 507)}, openapi_extra=body_of(Launch),
)  # fmt: skip
async def launch(
    request: Request, controller: TheController, origin: Caller, body: Annotated[Launch, Depends(accepts(Launch))]
) -> Response:
    """Begins a job that starts them and registers them, and returns it."""
    wish: Wish = LocalWish(body.count)
    if body.launcher == "ray":
        wish = msgspec.structs.replace(controller.launchers.ray.wish or RayWish(0), nodes=body.count)
    return done(request, await begin_job(controller, LaunchWork(wish), origin), PAGE, 202)
