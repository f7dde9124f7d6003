"""The child process that speaks with Ray: agents brought to its nodes, ended, looked at.

Ray is imported here and nowhere else. It takes a second and 100 MB, starts threads, and ends the process that uses it
when the cluster goes: nothing for a controller. The actors are detached, so they stay when this process has done its
errand; they keep the agents (`worker_agent/host/keeper.py`). Only addresses, keys and figures go through Ray.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from app.children.starting import ROOT
from app.children.work import JobProgress, ProgressCallback, serve_job
from app.errors import ShardboardError
from app.launchers.ray_messages import NAMESPACE, RayAgent, RayAsk, RayCluster, RayNode
from worker_agent.host.keeper import AgentKeeper, KeepWish, Kept

CONNECT_SECONDS = 5.0
READY_SECONDS = 180.0
"""How long all agents may take to come up: their processes import torch, on a cold disk."""
LOOK_SECONDS = 10.0
"""How long an actor may take to answer; one that does not is being started."""
STOP_SECONDS = 20.0
"""How long agents may take to leave before their actors are ended with them."""
MOST_RETRIES = 3
"""Of a question to an actor that Ray starts anew meanwhile; each can be asked twice."""
POLL_SECONDS = 1.0


def main() -> None:
    serve_job(RayAsk, carry_out)


def carry_out(ask: RayAsk, report: ProgressCallback) -> RayCluster:
    """Do one errand. Raises ShardboardError."""
    with _connected(ask) as cluster:
        match ask.do:
            case "up":
                cluster.bring(report)
            case "down":
                cluster.end(report)
            case "look":
                pass
        return cluster.view()


@contextlib.contextmanager
def _connected(ask: RayAsk) -> Iterator[_Cluster]:
    """In the cluster, as a driver of its own. Raises ShardboardError that says why not."""
    if ask.address.startswith("ray://"):
        raise ShardboardError(
            "Ray's client (ray://) cannot bring agents: the machine of the controller has to be a node of the cluster.",
            "Have it join: ray start --address=HEAD:6379 --num-cpus=0; then give HEAD:6379 or auto.",
        )
    if _has_token():
        os.environ["RAY_AUTH_MODE"] = "token"
    elif ask.needs_token:
        raise ShardboardError(
            "There is no token for Ray, so whoever reaches the cluster could run programs in it.",
            "Make one (ray get-auth-token --generate), start every Ray node with RAY_AUTH_MODE=token and that token, "
            "and give it here by RAY_AUTH_TOKEN or ~/.ray/auth_token; or use a cluster that "
            "lets in whoever reaches it, too (--no-token).",
        )
    _listens(ask.address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    code: dict[str, Any] = {"py_modules": [str(ROOT / "worker_agent")], "excludes": ["__pycache__"]}
    try:
        ray.init(
            address=ask.address, namespace=NAMESPACE, runtime_env=code if ask.do == "up" else None,
            log_to_driver=False, configure_logging=False, logging_level="error",
        )  # fmt: skip
    except Exception as error:  # of many types, none of them Ray's own
        raise _not_connected(ask.address, error) from error
    try:
        yield _Cluster(ask)
    finally:
        ray.shutdown()


class _Cluster:
    """The cluster that this process is connected to, and our actors in it."""

    def __init__(self, ask: RayAsk) -> None:
        import ray

        self._ray, self._ask = ray, ask
        self._prefix = f"{NAMESPACE}-{ask.group}-"

    def bring(self, report: ProgressCallback) -> None:
        """Have as many Ray nodes as asked for keep an agent. Raises ShardboardError; what was begun is ended then."""
        chosen = self._wait_for_nodes(report)
        every = [node["NodeID"] for node in self._living()]
        made: dict[str, Any] = {}
        try:
            for node in chosen:
                made[node["NodeID"]] = self._actor(node, [place for place in every if place != node["NodeID"]])
            self._wait_for_agents(made, chosen, report)
        except BaseException:
            for actor in made.values():
                self._ray.kill(actor, no_restart=True)
            raise

    def end(self, report: ProgressCallback) -> None:
        """End agents and their actors, and ask the autoscaler for nothing more."""
        if self._ask.places is None:
            self._request([])
        ending = {
            place: actor
            for place, actor in self._actors().items()
            if self._ask.places is None or place in self._ask.places
        }
        asked = [actor.stop.remote(self._ask.forget) for actor in ending.values()]
        if asked:
            report(_phase(f"ending {len(asked)} agents"))
            self._ray.wait(asked, num_returns=len(asked), timeout=STOP_SECONDS)
        for actor in ending.values():
            self._ray.kill(actor, no_restart=True)
        deadline = time.monotonic() + STOP_SECONDS
        while set(ending) & set(self._actors()) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 10)

    def view(self) -> RayCluster:
        """All of it as it is now."""
        actors = self._actors()
        asked = {place: actor.facts.remote() for place, actor in actors.items()}
        if asked:
            self._ray.wait(list(asked.values()), num_returns=len(asked), timeout=LOOK_SECONDS)
        nodes = []
        for node in self._living():
            place, agent = node["NodeID"], None
            if place in asked:
                with contextlib.suppress(self._ray.exceptions.RayError):
                    agent = _agent(msgspec.convert(self._ray.get(asked[place], timeout=0), Kept))
            nodes.append(_node(node, agent, place in asked and agent is None))
        return RayCluster(self._ray.get_runtime_context().gcs_address, self._ray.__version__, tuple(nodes))

    # --- nodes ---

    def _living(self) -> list[dict[str, Any]]:
        """In an order that stays."""
        living = [node for node in self._ray.nodes() if node["Alive"]]
        return sorted(living, key=lambda node: (node["NodeManagerAddress"], node["NodeID"]))

    def _wait_for_nodes(self, report: ProgressCallback) -> list[dict[str, Any]]:
        """The Ray nodes that are to have an agent and have none. Ray's autoscaler, where it has one, is asked for those
        that are missing. Raises ShardboardError when they do not come."""
        ask = self._ask
        deadline = time.monotonic() + (ask.wait_seconds or 0.0)
        while True:
            living, held = self._living(), self._actors()
            kept = sum(node["NodeID"] in held for node in living)
            free = [node for node in living if node["NodeID"] not in held and not self._lacks(node)]
            missing = ask.nodes - kept - len(free)
            if missing <= 0:
                return free[: max(0, ask.nodes - kept)]
            self._request([self._bundle()] * ask.nodes)
            if ask.wait_seconds is None:
                return free
            if time.monotonic() >= deadline:
                raise ShardboardError(self._too_few(living, held, len(free) + kept), _TOO_FEW_ADVICE)
            report(_phase(f"waiting for Ray nodes: {kept + len(free)} of {ask.nodes} are there"))
            time.sleep(POLL_SECONDS)

    def _bundle(self) -> dict[str, float]:
        """What one agent takes, as the autoscaler is asked for it."""
        ask = self._ask
        return {"CPU": ask.cpus or 1.0, **({"GPU": ask.gpus} if ask.gpus else {}), **ask.resources}

    def _request(self, bundles: list[dict[str, float]]) -> None:
        from ray.autoscaler.sdk import request_resources

        request_resources(bundles=bundles)

    def _lacks(self, node: dict[str, Any]) -> str:
        """What a Ray node has too little of, for an agent as it is wished for; empty when it has all."""
        demand, has = self._demand(node), node["Resources"]
        wanted = {
            "CPU": demand["num_cpus"], "GPU": demand["num_gpus"], "memory": demand.get("memory", 0),
            **demand["resources"],
        }  # fmt: skip
        short = [f"{has.get(name, 0):g} of {needed:g} {name}" for name, needed in wanted.items()
                 if needed > has.get(name, 0)]  # fmt: skip
        if not demand["num_cpus"]:
            short.append("no CPU for Ray's work")
        return ", ".join(short)

    def _too_few(self, living: Sequence[dict[str, Any]], held: dict[str, Any], found: int) -> str:
        why = [f"{node['NodeManagerAddress']} has {lack}" for node in living
               if node["NodeID"] not in held and (lack := self._lacks(node))]  # fmt: skip
        said = f" ({'; '.join(why)})" if why else ""
        return f"Ray has {found} of the {self._ask.nodes} nodes that were asked for{said}."

    # --- actors ---

    def _actors(self) -> dict[str, Any]:
        """Ours, by the id of their Ray node."""
        found = {}
        for name in self._ray.util.list_named_actors():
            if name.startswith(self._prefix):
                with contextlib.suppress(ValueError):  # it has just ended
                    found[name.removeprefix(self._prefix)] = self._ray.get_actor(name)
        return found

    def _demand(self, node: dict[str, Any]) -> dict[str, Any]:
        """What of Ray's resources an agent takes on this node."""
        ask, has = self._ask, node["Resources"]
        demand: dict[str, Any] = {
            "num_cpus": has.get("CPU", 0.0) if ask.cpus is None else ask.cpus,
            "num_gpus": min(1.0, has.get("GPU", 0.0)) if ask.gpus is None else ask.gpus,
            "resources": dict(ask.resources),
        }
        return demand if ask.memory is None else {**demand, "memory": ask.memory}

    def _actor(self, node: dict[str, Any], others: list[str]) -> Any:
        """Begin to start one, pinned to its node: a placement group's PACK keeps neighbours together as long as there
        is room, which is no promise. Ray starts it again as often as it ends."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        place, demand = node["NodeID"], self._demand(node)
        neighbours = [other for other in self._living() if other["NodeManagerHostname"] == node["NodeManagerHostname"]]
        name = node["NodeManagerHostname"]
        wish = KeepWish(
            trust=self._ask.trust, place=place, host=node["NodeManagerAddress"],
            name=name if len(neighbours) == 1 else f"{name}-{place[:4]}", others=tuple(others),
            threads=max(1, math.floor(demand["num_cpus"])), memory=self._ask.memory, sharing=len(neighbours),
        )  # fmt: skip
        return (
            self._ray.remote(AgentKeeper)
            .options(
                name=f"{self._prefix}{place}", lifetime="detached", max_restarts=-1, max_task_retries=MOST_RETRIES,
                scheduling_strategy=NodeAffinitySchedulingStrategy(place, soft=False), **demand,
            )
            .remote(msgspec.to_builtins(wish))
        )  # fmt: skip

    def _wait_for_agents(self, made: dict[str, Any], nodes: Sequence[dict[str, Any]], report: ProgressCallback) -> None:
        asked = {actor.facts.remote(): place for place, actor in made.items()}
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes}
        waiting, deadline = list(asked), time.monotonic() + READY_SECONDS
        while waiting:
            report(_phase(f"starting agents: {len(asked) - len(waiting)} of {len(asked)} are ready"))
            ready, waiting = self._ray.wait(waiting, num_returns=1, timeout=POLL_SECONDS)
            for each in ready:
                try:
                    kept = msgspec.convert(self._ray.get(each), Kept)
                except self._ray.exceptions.RayError as error:
                    raise _not_up(addresses[asked[each]], error) from error
                self._check(kept)
            if not ready and time.monotonic() >= deadline:
                late = ", ".join(addresses[asked[each]] for each in waiting)
                raise ShardboardError(
                    f"Ray has not started an agent on {late} within {READY_SECONDS:.0f} s.",
                    "Something else may hold what it needs there: see `ray status`, or ask for less (--cpus).",
                )

    def _check(self, kept: Kept) -> None:
        """That a node is of one kind with this process. Raises ShardboardError."""
        own = f"{sys.version_info.major}.{sys.version_info.minor}"
        if (kept.python, kept.software) != (own, self._ray.__version__):
            raise ShardboardError(
                f"{kept.host_name} runs Python {kept.python} with Ray {kept.software or 'of no known version'}, and "
                f"this machine Python {own} with Ray {self._ray.__version__}.",
                "All machines of a Ray cluster need the same minor version of Python and the same Ray.",
            )
        if self._ask.needs_token and not kept.token:
            raise ShardboardError(
                f"Ray on {kept.host_name} asks nobody for a token, so whoever reaches it can run programs there.",
                "Start every Ray node with RAY_AUTH_MODE=token, or use a cluster that lets in whoever reaches it, too "
                "(--no-token).",
            )


def _phase(text: str) -> JobProgress:
    return JobProgress(text, 0, 0)


def _has_token() -> bool:
    """Whether Ray will find one: where it looks itself, in its order."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    place = Path(named) if named else Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or place.is_file()


def _listens(address: str) -> None:
    """Whether anything does: Ray would go on trying for a minute, and then end this process. Raises ShardboardError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        return  # `auto`, which is Ray's to find
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise _not_connected(address, error) from error


def _node(node: dict[str, Any], agent: RayAgent | None, restarting: bool) -> RayNode:
    has = node["Resources"]
    return RayNode(
        node["NodeID"], node["NodeManagerAddress"], node["NodeManagerHostname"], has.get("CPU", 0.0),
        has.get("GPU", 0.0), int(has.get("memory", 0)), agent, restarting,
    )  # fmt: skip


def _agent(kept: Kept) -> RayAgent:
    return RayAgent(kept.place, kept.address, kept.public_key, kept.pid, kept.host_name)


def _not_up(address: str, error: Exception) -> ShardboardError:
    """Why an agent did not come up on a Ray node, in a sentence. Ray's own text holds a traceback."""
    text = str(error)
    if missing := re.search(r"No module named '([\w.]+)'", text):
        return ShardboardError(
            f"The Ray node {address} lacks the Python package {missing[1]}, which an agent needs.",
            "Install there what an agent needs: pip install shardboard, for the Python that Ray runs with.",
        )
    said = re.search(r"AgentError: (.*)", text, re.DOTALL)
    return ShardboardError(f"Ray could not start the agent on {address}: {(said[1] if said else text).strip()[-1500:]}")


def _not_connected(address: str, error: Exception) -> ShardboardError:
    text = str(error).strip()
    if "ersion mismatch" in text:
        return ShardboardError(
            f"The Ray cluster at {address} is of another version than Ray here: {' '.join(text.split())}",
            "All machines of a Ray cluster need the same minor version of Python and the same Ray.",
        )
    if "uthenticat" in text or "token" in text.lower():
        return ShardboardError(
            f"The Ray cluster at {address} refuses the token: {' '.join(text.split())[:500]}",
            "Give the cluster's token by RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.",
        )
    if "Failed to connect" in text and ":" in address:  # something listens there, which Ray says nothing more of
        return ShardboardError(
            f"What listens at {address} does not let this machine in: it is no Ray cluster, or has another token.",
            "Give the cluster's token by RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.",
        )
    return ShardboardError(
        f"No Ray cluster answers at {address}: {' '.join(text.split())[:500]}",
        "Start one (ray start --head), have this machine join it (ray start --address=HEAD:6379), or give --address.",
    )


_TOO_FEW_ADVICE = "Add nodes to the cluster, ask for fewer, or wait longer for its autoscaler: --wait SECONDS"


if __name__ == "__main__":
    main()
