"""The demo: agents on this machine, a small model over them, one prompt answered."""

from __future__ import annotations

from app.cli.generation import show_answer
from app.cli.output import note, progress_shown
from app.cli.session import Session, open_controller, origin
from app.figures import layers_text
from app.inference.parameters import GenerationParameters
from app.registry import DeploymentRecord, DeploymentStatus, NodeRecord

PROMPT = "What is the capital of France?"


def run(*, prompt: str, agents: int, model: str | None, keep: bool, as_json: bool) -> None:
    """Set everything up, stream the answer, end the agents that were started for it unless `keep`."""
    with open_controller() as session:
        name = _take_model(session, model, as_json)
        nodes, started = _take_nodes(session, agents, as_json)
        try:
            _deploy(session, name, nodes, as_json)
            show_answer(session, name, prompt, GenerationParameters(), chat=True, as_json=as_json)
        finally:
            if not keep:
                for node in started:
                    session.run(session.controller.remove_node(str(node.id)))


def _take_model(session: Session, source: str | None, as_json: bool) -> str:
    """The name of the demo's model, or of the given one, which is added to the library where that lacks it."""
    controller = session.controller
    if source is not None and source in {record.name for record in session.run(controller.list_models())}:
        return source
    _say("Taking the model.", as_json)
    with progress_shown(as_json) as progress:
        if source is None:
            return session.run(controller.add_demo_model(progress.job, origin())).name
        return session.run(controller.add_model(source, on_progress=progress.job, origin=origin())).name


def _take_nodes(session: Session, count: int, as_json: bool) -> tuple[list[NodeRecord], list[NodeRecord]]:
    """`count` agents on this machine, and those of them that were started for it."""
    nodes = session.run(session.controller.list_nodes())
    here = [node for node in nodes if node.local_pid is not None and node.is_active and not node.draining][:count]
    started: list[NodeRecord] = []
    if missing := count - len(here):
        _say(f"Starting {missing} agent{'s' if missing > 1 else ''} on this machine.", as_json)
        started = session.run(session.controller.launch_local(missing))
    return [*here, *started], started


def _deploy(session: Session, model: str, nodes: list[NodeRecord], as_json: bool) -> None:
    ids = [node.id for node in nodes]
    if _is_deployed(session, model, ids):
        return
    with progress_shown(as_json) as progress:
        deployment = session.run(session.controller.deploy(model, nodes=ids, on_progress=progress.deployment))
    names = {node.id: node.hostname for node in nodes}
    for shard in session.registry.shards.list(deployment_id=deployment.id):
        place = names.get(shard.node_id or 0, "?")
        _say(
            f"Layers {layers_text(shard.start_layer, shard.end_layer)} are on {place} (node {shard.node_id}).", as_json
        )


def _is_deployed(session: Session, model: str, nodes: list[int]) -> bool:
    registry = session.registry

    def stands(deployment: DeploymentRecord) -> bool:
        shards = sorted(registry.shards.list(deployment_id=deployment.id), key=lambda shard: shard.start_layer)
        ready = deployment.status is DeploymentStatus.READY and deployment.model_name == model
        return ready and [shard.node_id for shard in shards] == nodes

    return any(stands(deployment) for deployment in registry.deployments.list())


def _say(text: str, as_json: bool) -> None:
    if not as_json:
        note(text)
