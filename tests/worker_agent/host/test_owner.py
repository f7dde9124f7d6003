"""An agent leaves its machine to its owner by the rules that the owner gave."""

from __future__ import annotations

from datetime import time
from pathlib import Path

import pytest
import zmq

from tests.worker_agent.agent_process import Client, running_agent, until
from worker_agent.host.options import BadOption, read_options
from worker_agent.host.owner import BEGIN_SECONDS, END_SECONDS, Hours, OwnerRules, OwnerWatch
from worker_agent.host.telemetry import Memory, Sample
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.messages import Health, HealthReport


def sample(cpu: float = 0.0, own: float = 0.0, free: int = 10**10) -> Sample:
    return Sample(cpu, own, 0.0, Memory(2 * 10**10, free), 0, 0, (), 0.0)


class Day:
    """A watch over a machine whose figures the test chooses."""

    def __init__(self, rules: OwnerRules, cores: int = 4) -> None:
        self.now, self.clock, self.on_battery = 0.0, time(12, 0), False
        self.watch = OwnerWatch(rules, cores, lambda: self.on_battery, lambda: self.clock)

    def goes(self, seconds: float, seen: Sample | None = None) -> str:
        """So much later, with a sample each second; why it yields then."""
        for _ in range(int(seconds)):
            self.now += 1.0
            self.watch.look(seen or sample(), self.now)
        return self.watch.reason


def test_it_yields_while_others_use_the_processor_and_not_for_a_moment() -> None:
    day = Day(OwnerRules(cpu=40))
    assert day.goes(20, sample(90, own=300)) == "", "its own work is no reason: 90 % less 300 % of one of four cores"
    assert day.goes(BEGIN_SECONDS, sample(90, own=100)) == ""
    assert day.goes(2, sample(90, own=100)) == "Its owner needs it: other programs use 65 % of the CPU (rule: 40 %)."
    assert day.goes(2) and day.goes(2, sample(90)), "a moment's rest is none either"
    assert day.goes(END_SECONDS)
    assert day.goes(2) == ""


def test_memory_battery_and_hours_speak_too() -> None:
    day = Day(OwnerRules(memory=4 * 10**9))
    assert day.goes(10, sample(free=3 * 10**9)) == "Its owner needs it: 3.0 GB of memory are free (rule: 4.0 GB)."
    day = Day(OwnerRules(battery=True))
    assert day.goes(10) == ""
    day.on_battery = True
    assert day.goes(10) == "Its owner needs it: it runs on its battery."
    day = Day(OwnerRules(hours=Hours.parse("9:00-17:30")))
    assert day.goes(10) == "Its owner needs it from 09:00 to 17:30."
    day.clock = time(17, 30)
    assert day.goes(END_SECONDS + 2) == ""


def test_hours_may_go_past_midnight() -> None:
    night = Hours.parse("22:00-6:30")
    assert night.holds(time(23, 0)) and night.holds(time(0, 0)) and not night.holds(time(6, 30))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--yield-cpu", "0"), "--yield-cpu: 0 is no percentage"),
        (("--yield-memory", "much"), "--yield-memory: 'much' is no size"),
        (("--yield-hours", "9-17"), "--yield-hours: '9-17' are no hours"),
        (("--yield-hours", "25:00-26:00"), "--yield-hours: '25:00-26:00' are no hours"),
        (("--yield-hours", "9:00-9:00"), "begins when it ends"),
    ],
)
def test_a_rule_that_cannot_be_understood_is_said(options: tuple[str, str], said: str) -> None:
    with pytest.raises(BadOption, match=said):
        read_options(options)


def test_an_agent_tells_that_it_yields(
    tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]], controller_keys: KeyPair
) -> None:
    """No machine has so much memory free."""
    options = ("--yield-memory", "900TB", f"--trust={controller_keys.public}")
    with running_agent(tmp_path / "home", *options) as agent, Client(context, agent, controller_keys) as client:
        client.hello()

        def why() -> str:
            report = client.ask(lambda call: Health(call=call))
            assert isinstance(report, HealthReport)
            return report.yields

        assert until(why, 20).endswith("GB of memory are free (rule: 900000.0 GB).")
