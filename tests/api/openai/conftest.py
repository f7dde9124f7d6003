"""A controller with two agents, SmolLM2 split over both, and the server, driven by OpenAI's own client."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from app.api.server import ApiServer
from app.controller_settings import ServerSettings
from app.serving import ServingWish
from tests.api.serving import CONTEXT
from tests.e2e.conftest import System
from tests.tiny_model import change_json
from worker_agent.model.imports import import_transformers
from worker_agent.wire.messages import Health

import_transformers()  # as agents have it, which takes half as long as the whole

HERMES = """\
{%- if tools %}<|im_start|>system
You may call these tools, each call as <tool_call>{"name": ..., "arguments": {...}}</tool_call>:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content %}{{ message.content }}{% endif %}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@dataclass(frozen=True)
class Served:
    """A system and the server in front of it."""

    system: System
    server: ApiServer

    @property
    def url(self) -> str:
        return f"{self.server.url}/v1"

    def client(self, **options: object) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, **{"api_key": "unused", "max_retries": 0, "timeout": 60.0, **options})  # type: ignore[arg-type]

    def sequences_held(self) -> int:
        """Sequences that the agents hold memory for, on all stages together."""

        async def ask() -> int:
            links = self.system.controller.nodes.links().values()
            reports = [await link.call(Health(call=0)) for link in links if link.is_up]
            return sum(stage.sequences for report in reports for stage in report.stages)

        return self.system.run(ask())


def serve(system: System) -> Served:
    async def start() -> ApiServer:
        server = ApiServer(system.controller, ServerSettings(port=0))
        await server.start()
        return server

    return Served(system, system.run(start()))


@pytest.fixture(scope="package")
def served(smollm_system: System) -> Iterator[Served]:
    """For tests that leave nothing behind."""
    served = serve(smollm_system)
    try:
        yield served
    finally:
        smollm_system.run(served.server.stop(deadline=1.0))


@pytest.fixture(scope="package")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with served.client() as client:
        yield client


@pytest.fixture(scope="package")
def toolsmith(served: Served, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tiny model with a chat template that knows tools."""
    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("models") / "toolsmith")
    change_json(folder / "tokenizer_config.json", chat_template=HERMES)
    system = served.system
    system.run(system.controller.add_model(str(folder), name="toolsmith"))
    nodes = [node.id for node in system.nodes]
    system.run(
        system.controller.deploy(
            "toolsmith", nodes=nodes, layers="0-1,2-3", serving=ServingWish(context=CONTEXT, kv_tokens=CONTEXT)
        )
    )
    yield "toolsmith"
    system.run(system.controller.undeploy("toolsmith"))
    system.run(system.controller.remove_model("toolsmith"))
