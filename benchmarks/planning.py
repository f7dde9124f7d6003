"""How good the planner's plans are, and how long it takes: against HiGHS, and against a search that has all its time.

    python benchmarks/planning.py [--nodes 5,8,12,20,50,100,200] [--clusters 5] [--seconds 60]

Clusters are made up: sites with fast links within and slow ones between them, a third of the directions unmeasured,
machines of unlike speed and memory, and a model of 80 layers (of 32 where the solver takes part) that needs several of
them. For `fastest` up to MOST_FOR_SOLVER nodes the same question is put to HiGHS (through scipy) as a mixed-integer
program; for all sizes simulated annealing over nodes and orders, begun from the plan and from elsewhere, looks for
something better for `--seconds`. The best of all is what is called best known. Times are of the process, so that other
programs at work make no difference but for the caches.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.models.description import ModelDescription, PartSource, TensorSource
from app.registry.records import LinkRecord, NodeRecord
from app.serving import Serving
from app.sharding.capacity import NodeCapacity
from app.sharding.planning.aiming import fullness, in_all, machines_of, solved
from app.sharding.planning.aims import AIMS, FASTEST, FEWEST, FITS, MOST
from app.sharding.planning.division import Limits, Ring, divided
from app.sharding.planning.planner import plan
from app.sharding.planning.problem import Offer, Problem
from app.sharding.prediction import STREAMS, lanes_of, rows_of

MOST_FOR_SOLVER = 20
SERVING = Serving("bfloat16", 1000, 4000)
LAYER_PARAMETERS, END_PARAMETERS = 200_000_000, 250_000_000
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def made_up_model(layers: int) -> ModelDescription:
    def part(kind: str, index: int, count: int) -> PartSource:
        tensor = TensorSource(f"{kind}.{index}", "BF16", (count,), 2 * count, "model.safetensors", 0)
        return PartSource(kind, index, (tensor,))  # type: ignore[arg-type]

    parts = (
        part("first", 0, END_PARAMETERS),
        *(part("layer", index, LAYER_PARAMETERS) for index in range(layers)),
        part("last", 0, END_PARAMETERS),
    )
    return ModelDescription(
        name="made-up", folder="/nowhere", source="folder", architecture="MadeUp", model_type="made-up",
        num_layers=layers, parameters=layers * LAYER_PARAMETERS, weight_bytes=sum(each.nbytes for each in parts),
        dtype="bfloat16", max_context=8192, hidden_size=4096, vocab_size=128_000, kv_elements=(2048,) * layers,
        cuts=tuple(range(1, layers)), parts=parts,
    )  # fmt: skip


def made_up_cluster(seed: int, count: int, layers: int) -> Problem:
    chance = random.Random(seed)
    model = made_up_model(layers)
    whole = sum(part.memory("bfloat16") for part in model.parts)
    sites = [(chance.random(), chance.random()) for _ in range(max(2, count // 15))]
    where = [chance.randrange(len(sites)) for _ in range(count)]
    share = max(0.12, 1.6 / count)
    offers = []
    for number, site in enumerate(where, start=1):
        read = chance.choice((4e9, 8e9, 12e9, 25e9, 60e9)) * chance.uniform(0.9, 1.1)
        speed = {"dtype": "bfloat16", "read_bytes_per_second": read, "flops_per_second": read * 20}
        record = NodeRecord(
            number, f"node-{number}", f"10.{site}.0.{number}", 7600, "", "", True, False, None, {"speeds": [speed]},
            None, NOW, NOW,
        )  # fmt: skip
        free = whole * share * chance.choice((0.25, 0.5, 1, 1, 2))
        offers.append(Offer(NodeCapacity(number, record.hostname, int(free)), record, chance.uniform(0.001, 0.04)))
    links = []
    for one, here in enumerate(where, start=1):
        for other, there in enumerate(where, start=1):
            if one != other and chance.random() < 0.67:
                far = math.dist(sites[here], sites[there])
                rtt = (0.0004 + 0.04 * far) * chance.uniform(0.8, 1.3)
                links.append(LinkRecord(len(links), one, other, "measured", "", rtt, rtt, 0.0, 0.0, 1e8, 1448, NOW))
    problem = Problem(model, SERVING, offers, links)
    problem.links = links  # type: ignore[attr-defined]  # for `plan`, which makes a problem of its own
    return problem


# --- others at the same question -----------------------------------------------------------------------------


def by_solver(problem: Problem, seconds: float) -> tuple[float, bool] | None:
    """Seconds of a token by HiGHS, and whether it has proved that nothing is better; None where it found nothing.

    Variables: that a node has the stage from a to b (whole numbers); that a token goes from one node to another at a
    boundary, and from the last to the first. What comes in at a node and a boundary goes out there.
    """
    count, last, rows = len(problem.offers), problem.last, problem.token_rows()
    costs: list[float] = []
    whole: list[int] = []
    entries: dict[object, list[tuple[int, float]]] = {}

    def variable(cost: float, integral: bool, *within: tuple[object, float]) -> None:
        for name, factor in within:
            entries.setdefault(name, []).append((len(costs), factor))
        costs.append(cost)
        whole.append(int(integral))

    for node in range(count):
        reach = problem.reach(node)
        for start in range(last):
            for end in range(start + 1, reach[start] + 1):
                alone = start == 0 and end == last
                cost = rows[node][end] - rows[node][start] + rows[node][0]
                cost += problem.closing(node, node) if alone else 0.0
                begins, ends_ = ("begun", float(start == 0)), ("ended", float(end == last))
                passed = [] if alone else [(("in", node, start), 1.0), (("out", node, end), 1.0)]
                variable(cost, True, (("once", node), 1.0), begins, ends_, *passed)
    for one in range(count):
        for other in range(count):
            if one != other:
                for boundary in range(1, last):
                    variable(
                        problem.hops[one][other], False, (("out", one, boundary), -1), (("in", other, boundary), -1)
                    )
                variable(problem.closing(one, other), False, (("out", one, last), -1), (("in", other, 0), -1))
    rights = {"begun": (1, 1), "ended": (1, 1)}
    names = list(entries)
    matrix = sparse.csr_matrix(
        (
            [factor for name in names for _, factor in entries[name]],
            (
                [row for row, name in enumerate(names) for _ in entries[name]],
                [place for name in names for place, _ in entries[name]],
            ),
        ),
        shape=(len(names), len(costs)),
    )
    bounds = [
        rights.get(name, (-np.inf, 1) if isinstance(name, tuple) and name[0] == "once" else (0, 0))  # type: ignore[call-overload]
        for name in names
    ]
    found = milp(
        np.array(costs), integrality=np.array(whole), bounds=Bounds(0, 1),
        constraints=LinearConstraint(matrix, [low for low, _ in bounds], [high for _, high in bounds]),
        options={"time_limit": seconds, "mip_rel_gap": 1e-4},
    )  # fmt: skip
    return None if found.x is None else (float(found.fun), found.status == 0)


def value_of(problem: Problem, aim: str, ring: Ring) -> float:
    """What the aim wants little of, its first part. For `fewest` with the seconds behind the comma."""
    if aim == FITS:
        return fullness(problem, ring)
    if aim == MOST:
        return in_all(problem, ring, problem.step_rows(rows_of(machines_of(problem, ring.nodes))))
    return ring.seconds + (1000 * machines_of(problem, ring.nodes) if aim == FEWEST else 0)


def by_annealing(problem: Problem, aim: str, begin: Sequence[int], seconds: float, seed: int) -> float:
    """The least seconds of a token, or what else the aim wants little of, that chance comes by in some time."""
    chance = random.Random(seed)
    tables = {0: problem.token_rows()}

    def valued(nodes: Sequence[int]) -> float:
        if aim == MOST:
            count = machines_of(problem, nodes)
            rows = tables.setdefault(count, problem.step_rows(rows_of(count)))
        else:
            rows = tables[0]
        limits = Limits(problem, rows)
        ring = divided(problem, rows, limits, nodes)
        if ring is None:
            return math.inf
        if aim == FITS:
            low, high = 0.0, fullness(problem, ring)
            for _ in range(12):
                middle = (low + high) / 2
                found = divided(problem, rows, Limits(problem, rows, middle), nodes)
                low, high = (middle, high) if found is None else (low, fullness(problem, found))
            return high
        if aim == MOST:
            best, count = in_all(problem, ring, rows), machines_of(problem, nodes)
            lanes = lanes_of(count)
            low, high = ring.seconds / lanes, best * STREAMS / lanes
            for _ in range(8):
                middle = (low + high) / 2
                found = divided(problem, rows, limits.within(middle), nodes)
                if found is not None:
                    best = min(best, in_all(problem, found, rows))
                low, high = (middle, high) if found is None or found.seconds > lanes * middle else (low, middle)
            return best
        return value_of(problem, aim, ring)

    now = list(begin)
    value = best = valued(now)
    began = time.process_time()
    while (spent := time.process_time() - began) < seconds:
        heat = 0.03 * (1 - spent / seconds) * (best if best < 1000 else best % 1000)
        made = list(now)
        others = [node for node in range(len(problem.offers)) if node not in now]
        match chance.randrange(5):
            case 0 if others:
                made[chance.randrange(len(made))] = chance.choice(others)
            case 1 if others:
                made.insert(chance.randrange(len(made) + 1), chance.choice(others))
            case 2 if len(made) > 1:
                del made[chance.randrange(len(made))]
            case 3:
                node = made.pop(chance.randrange(len(made)))
                made.insert(chance.randrange(len(made) + 1), node)
            case _:
                one, other = sorted((chance.randrange(len(made) + 1), chance.randrange(len(made) + 1)))
                made[one:other] = made[one:other][::-1]
        if made == now:
            continue
        after = valued(made)
        if after <= value or (after < math.inf and chance.random() < math.exp((value - after) / max(heat, 1e-12))):
            now, value = made, after
            best = min(best, value)
    return best


# --- the table -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One aim for clusters of one size."""

    aim: str
    nodes: int
    layers: int
    seconds: tuple[float, ...]
    """Of the planner, with all its sentences."""
    gaps: tuple[float, ...]
    """How much worse the plan is than the best known; 0 where nothing better is known."""
    proved: int
    """Of how many HiGHS has proved the best."""

    @property
    def line(self) -> str:
        proved = f"{self.proved} of {len(self.gaps)}" if self.nodes <= MOST_FOR_SOLVER and self.aim == FASTEST else "–"
        return (
            f"| {self.aim} | {self.nodes} | {self.layers} | {statistics.median(self.seconds) * 1000:,.0f} ms "
            f"| {max(self.seconds) * 1000:,.0f} ms | {statistics.mean(self.gaps):.2%} | {max(self.gaps):.2%} "
            f"| {proved} |"
        )


def measured(aim: str, count: int, clusters: int, seconds: float) -> Row:
    layers = 32 if count <= MOST_FOR_SOLVER else 80
    times, gaps, proved = [], [], 0
    for seed in range(clusters):
        problem = made_up_cluster(seed, count, layers)
        began = time.process_time()
        plan(problem.description, SERVING, problem.offers, problem.links, aim)  # type: ignore[attr-defined]
        times.append(time.process_time() - began)
        solution = solved(problem, aim)
        assert solution is not None
        ring = solution.ring
        mine = value_of(problem, aim, ring)
        known = [mine, by_annealing(problem, aim, ring.nodes, seconds / 2, seed)]
        elsewhere = solved(problem, FITS)
        assert elsewhere is not None
        known.append(by_annealing(problem, aim, elsewhere.ring.nodes, seconds / 2, seed + 1))
        if aim == FASTEST and count <= MOST_FOR_SOLVER and (found := by_solver(problem, seconds)) is not None:
            known.append(found[0])
            proved += found[1]
        gaps.append(max(0.0, (mine - min(known)) / (min(known) % 1000 if aim == FEWEST else min(known))))
    return Row(aim, count, layers, tuple(times), tuple(gaps), proved)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="5,8,12,20,50,100,200")
    parser.add_argument("--clusters", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--aims", default=",".join(AIMS))
    options = parser.parse_args()
    print("| aim | nodes | layers | median | longest | worse than the best known | at worst | proved by HiGHS |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    psutil.cpu_percent()
    own = time.process_time()
    began = time.monotonic()
    for aim in options.aims.split(","):
        for count in map(int, options.nodes.split(",")):
            print(measured(aim, count, options.clusters, options.seconds).line, flush=True)
    took = time.monotonic() - began
    cores = psutil.cpu_count() or 1
    others = psutil.cpu_percent() / 100 * cores - (time.process_time() - own) / took
    print(f"\nOther programs took {max(0.0, others):.1f} of {cores} cores meanwhile.")


if __name__ == "__main__":
    main()
