"""Whether anything at all can be sent that is neither understood nor refused: millions of inputs for each reader.

    python benchmarks/fuzz.py [--readers messages,parts] [--inputs 100000] [--seed 1] [--atheris]

Readers and what has to become of an input are in `tests/fuzz/readers.py`. Messages are made up from their types and
bent, byte by byte or value by value; an input that breaks the rule is written to a file, which is named, and
`--again FILE` reads it once more. With `--atheris` what to bend next is chosen by which lines of ours were reached
(Google's atheris, Apache-2.0, no part of any extra: `pip install atheris`; there are wheels for Linux), with a limit of
5 seconds for one input and of 2 GB for the process. Prints a row a reader.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

LONGEST = 16_384
"""Bytes of an input that atheris makes. Those that are bent here may become longer."""
HEAD = "| reader | inputs | understood | a second | longest | memory gained | how |\n" + "| --- " * 7 + "|"
ENTRY = "| {name} | {count:,} | {understood:.1%} | {rate:,.0f} | {worst:.1f} ms | {memory:.0f} MB | {how} |"


class Tally:
    """What became of the inputs of one reader."""

    def __init__(self, name: str, wanted: int, how: str) -> None:
        from tests.fuzz.readers import READERS

        self.reader = READERS[name]()
        self._wanted, self._how = wanted, how
        self._count = self._understood = 0
        self._worst = 0.0
        self._memory = _peak_memory()
        self._began = time.perf_counter()

    def take(self, content: bytes) -> None:
        """Read one input. Raises whatever the reader raises, with the input in a file."""
        began = time.process_time()
        try:
            self._understood += self.reader.read(content)
        except BaseException:
            path = Path(tempfile.gettempdir()) / f"shardboard-fuzz-{self.reader.name}"
            path.write_bytes(content)
            print(f"The reader '{self.reader.name}' broke the rule with the {len(content)} bytes in {path}", flush=True)
            raise
        self._worst = max(self._worst, time.process_time() - began)
        self._count += 1
        if self._count == self._wanted:
            self._tell()

    def _tell(self) -> None:
        print(
            ENTRY.format(
                name=self.reader.name, count=self._count, understood=self._understood / self._count,
                rate=self._count / (time.perf_counter() - self._began), worst=self._worst * 1000,
                memory=(_peak_memory() - self._memory) / 1e6, how=self._how,
            ),
            flush=True,
        )  # fmt: skip


def seeded(name: str, count: int, seed: int) -> None:
    """Inputs from a seed alone."""
    from tests.fuzz.readers import inputs

    tally = Tally(name, count, f"seed {seed}")
    made = inputs(tally.reader, random.Random(seed))
    for _ in range(count):
        tally.take(next(made))


def guided(name: str, count: int, seed: int) -> None:
    """Inputs that atheris chooses. Does not return: libFuzzer ends the process."""
    atheris: Any = import_module("atheris")
    with atheris.instrument_imports(include=["worker_agent", "app"]):
        from tests.fuzz.made_up import MadeUp

        tally = Tally(name, count, f"atheris, seed {seed}")

    corpus = Path(tempfile.mkdtemp(prefix="shardboard-fuzz-corpus-"))
    chance = random.Random(seed)
    pool = tally.reader.seeds(chance)
    for number, content in enumerate(pool):
        (corpus / f"seed-{number}").write_bytes(content)

    made = MadeUp(chance)

    def bend(content: bytes, longest: int, seed: int) -> Any:
        """By libFuzzer, which knows what comparisons saw, or by us, who know what a message is; and some new ones."""
        if seed % 2:
            return atheris.Mutate(content, longest)
        if seed % 8 == 0:
            content = tally.reader.fresh(made)
            return content if seed % 16 and len(content) <= longest else atheris.Mutate(content[:longest], longest)
        return tally.reader.bent(made, content, pool[seed % len(pool)])[:longest]

    limits = [f"-max_len={LONGEST}", "-timeout=5", "-rss_limit_mb=2048", "-print_final_stats=0", "-verbosity=0"]
    limits.append(f"-artifact_prefix={tempfile.gettempdir()}/shardboard-fuzz-")
    atheris.Setup(
        [sys.argv[0], f"-runs={count}", f"-seed={seed}", *limits, str(corpus)], tally.take, custom_mutator=bend
    )
    atheris.Fuzz()


def _peak_memory() -> int:
    """Bytes that the process held at most, where the system tells."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", default="", help="their names, with commas between; all of them else")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--atheris", action="store_true")
    parser.add_argument("--again", type=Path)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        (guided if options.atheris else seeded)(options.only, options.inputs, options.seed)
        return
    from tests.fuzz.readers import READERS

    names = options.readers.split(",") if options.readers else list(READERS)
    if options.again:
        print("understood" if READERS[names[0]]().read(options.again.read_bytes()) else "refused")
        return
    print(HEAD, flush=True)
    failed = []
    for name in names:  # a process each: memory is that of one reader, and libFuzzer ends its own
        given = [f"--only={name}", f"--inputs={options.inputs}", f"--seed={options.seed}"]
        given += ["--atheris"] if options.atheris else []
        if subprocess.run([sys.executable, __file__, *given], cwd=ROOT).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"The rule was broken by: {', '.join(failed)}")


if __name__ == "__main__":
    main()
