"""The program as a user starts it, in processes of its own, and a tiny model for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from tests.inference import tiny_tokenizers

ROOT = Path(__file__).resolve().parent.parent.parent
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


class CommandLine:
    """`python main.py …` with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.environment = {**os.environ, "SHARDBOARD_HOME": str(home), "COLUMNS": "100"}
        self.environment.pop("MODEL_CACHE_DIR", None)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        process = self.start(*arguments)
        out, errors = process.communicate(timeout=120)
        assert process.returncode == code, (arguments, out, errors)
        return out if code == 0 else errors

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))


def runs(pid: int) -> bool:
    """Whether the process is there and no mere entry that nobody has collected (containers without an init)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Service:
    """`main.py serve` on a free port, its output in a file."""

    def __init__(self, commands: CommandLine, home: Path, *arguments: str) -> None:
        self.said = home.with_name(f"{home.name}-said.txt")
        with self.said.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "main.py", "serve", "--port", "0", *arguments],
                cwd=ROOT, env=commands.environment,
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def wait_for(self, text: str) -> str:
        deadline = time.monotonic() + 60
        while text not in (said := self.said.read_text()):
            assert self.process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        return said

    @property
    def url(self) -> str:
        return self.wait_for("Serving at ").split("Serving at ")[1].split()[0]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def make_tiny_model(folder: Path, context: int = 4096) -> Path:
    """A Llama of three layers with random weights, which answers nonsense, for as long as it is asked to."""
    import torch  # here: the tests of the window, which use these programs too, do without it, as the window does
    from transformers import AutoModelForCausalLM, LlamaConfig

    tokenizer = tiny_tokenizers.byte_level()
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size() + 1,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=context,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
    return tiny_tokenizers.save(folder, tokenizer, tokenizer_config=settings)
