"""A newcomer's path, between two machines: network namespaces of their own, with a wire between them.

One machine waits and is found, another pastes the line of an invitation; a model is deployed over both, and answers.
How long each step takes is printed: ./test tests/e2e/test_newcomer.py -m long -s
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.inference import tiny_tokenizers
from tests.tiny_model import make_model
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
DESK, RACK = "10.91.7.1", "10.91.7.2"

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None,
        reason="network namespaces need Linux, root, and ip (Debian: apt-get install iproute2)",
    ),
]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


class Program:
    """One that runs on a machine: what it says, and what is typed there."""

    def __init__(self, machine: str, command: list[str], home: Path) -> None:
        environment = {**os.environ, "SHARDBOARD_HOME": str(home), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", machine, *command], env=environment, cwd=home.parent, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.said = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while character := self._process.stdout.read(1):  # a prompt has no end of line
            self.said += character

    def shows(self, pattern: str, seconds: float = 90.0) -> re.Match[str]:
        """Wait for it."""
        wait_until(lambda: re.search(pattern, self.said) or self._process.poll() is not None, seconds)
        found = re.search(pattern, self.said)
        assert found is not None, self.said
        return found

    def type(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def ends(self, seconds: float = 120.0) -> str:
        """Wait for its end, which has to be a good one; what it said."""
        status = self._process.wait(seconds)
        self._reader.join(10)
        assert status == 0, self.said
        return self.said

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._reader.join(10)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """Two namespaces, each with one end of a wire."""
    desk, rack = f"desk-{os.getpid()}", f"rack-{os.getpid()}"
    try:
        for name in (desk, rack):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", desk, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", rack)
        for name, address in ((desk, DESK), (rack, RACK)):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "wire")
            ip("-n", name, "link", "set", "wire", "up")
        yield desk, rack
    finally:
        for name in (desk, rack):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_from_two_bare_machines_to_an_answer(machines: tuple[str, str], tmp_path: Path) -> None:
    desk, rack = machines
    python, homes = sys.executable, {name: tmp_path / name for name in ("desk", "found", "invited", "copied")}
    for home in homes.values():
        home.mkdir()
    model = tmp_path / "tiny"
    make_model("llama", model, max_position_embeddings=512, num_hidden_layers=4, vocab_size=512)
    tiny_tokenizers.byte_level().save(str(model / "tokenizer.json"))
    running: list[Program] = []

    def start(machine: str, command: list[str], home: str) -> Program:
        running.append(Program(machine, command, homes[home]))
        return running[-1]

    def shardboard(*words: str) -> Program:
        return start(desk, [python, str(ROOT / "main.py"), *words], "desk")

    def pasted(line: str, home: str, *more: str) -> Program:
        """What a wheel's program would do, from this repository's code."""
        program, *options = shlex.split(line)
        assert program == "shardboard-agent"
        return start(rack, [python, "-P", "-m", "worker_agent", *options, "--name", home, *more], home)

    @contextmanager
    def step(what: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        print(f"{what}: {time.monotonic() - begun:.1f} s")

    try:
        with step("the controller serves"):
            shardboard("serve", "--no-http").shows("Serving commands")
        with step("the agent waits"):
            waiting = pasted("shardboard-agent --wait", "found")
            waiting.shows(f"waits to be found, as found at {RACK}:7600")
        with step("it is seen"):
            assert f"{RACK}:7600" in shardboard("node", "find").ends()
        with step("another one with the same key is refused"):
            (homes["copied"] / "agent").mkdir()
            shutil.copy(homes["found"] / "agent" / "agent.key", homes["copied"] / "agent" / "agent.key")
            copy = start(desk, [python, "-P", "-m", "worker_agent", "--wait"], "copied")
            copy.shows("waits with the same key .* copied")
        with step("it is met, and shows its code"):
            finding = shardboard("node", "find", "found")
            code = waiting.shows(r"\n    (\d{3} \d{3})\n")[1]
            finding.shows("Its code")
        with step("the code is typed, the question answered, the agent starts and is a node"):
            finding.type(code)
            waiting.shows(r"\[y/N\]")
            time.sleep(1.0)  # to read it
            waiting.type("y")
            assert RACK in finding.ends()
        with step("an invitation is made"):
            inviting = shardboard("node", "invite")
            line = inviting.shows(r"(?m)^(shardboard-agent --join \w+)$")[1]
        with step("its line is pasted, and the agent is a node"):
            pasted(line, "invited", "--listen", f"{RACK}:7601")
            assert f"{RACK}:7601" in inviting.ends()
        with step("a model is added"):
            shardboard("model", "add", str(model)).ends()
        with step("it is deployed over both"):
            shardboard("deploy", "tiny", "--nodes", "1,2", "--dtype", "float32").ends()
        with step("it answers"):
            shardboard("generate", "tiny", "hello", "--raw", "--max-tokens", "8").ends()
    finally:
        for program in reversed(running):
            program.end()
