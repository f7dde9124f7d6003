"""The demo: agents on this machine, a small model over them, one prompt answered."""

from __future__ import annotations

from collections.abc import Callable

from app.cli.generation import show_answer
from app.cli.output import note, progress_shown
from app.cli.session import Session, open_controller, origin
from app.figures import layers_text
from app.inference.parameters import GenerationParameters
from app.inference.prompt import ChatPrompt

PROMPT = "What is the capital of France?"


def run(*, prompt: str, agents: int, model: str | None, keep: bool, as_json: bool) -> None:
    """Set everything up, stream the answer, end the agents that were started for it unless `keep`."""
    from app.first_run import (  # not needed for --help, and slow to load
        deploy_over,
        give_back,
        starting_text,
        take_local_agents,
    )

    def say(text: str) -> None:
        if not as_json:
            note(text)

    with open_controller() as session:
        name = _take_model(session, model, say, as_json)
        taken = session.ask(
            take_local_agents, agents, on_starting=lambda count: say(starting_text(count)), origin=origin()
        )
        try:
            names = {node.id: node.hostname for node in taken.nodes}
            with progress_shown(as_json) as progress:
                deployment = session.ask(deploy_over, name, list(names), on_progress=progress.job, origin=origin())
            for shard in session.registry.shards.list(deployment_id=deployment.id):
                place = names.get(shard.node_id or 0, "?")
                say(f"Layers {layers_text(shard.start_layer, shard.end_layer)} are on {place} (node {shard.node_id}).")
            show_answer(session, name, ChatPrompt.of(prompt), GenerationParameters(), as_json=as_json)
        finally:
            if not keep:
                session.ask(give_back, taken)


def _take_model(session: Session, source: str | None, say: Callable[[str], None], as_json: bool) -> str:
    """The name of the demo's model, or of the given one, which is added to the library where that lacks it."""
    controller = session.controller
    if source is not None and source in {record.name for record in session.run(controller.list_models())}:
        return source
    say("Taking the model.")
    with progress_shown(as_json) as progress:
        if source is None:
            return session.run(controller.add_demo_model(progress.job, origin())).name
        return session.run(controller.add_model(source, on_progress=progress.job, origin=origin())).name
