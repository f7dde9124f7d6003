"""What agents hold beside what is accounted for: when a difference counts, when it is over, what is said of it."""

from __future__ import annotations

import asyncio

import msgspec

from app.cluster.health import NodeMemoryJudged
from app.cluster.memory import LASTING_BEATS, SETTLING_BEATS, MemoryWatch, difference_text
from tests.cluster.test_health import watched
from worker_agent.wire.messages import HealthReport, Progress, StageInfo

MB = 1_000_000
BASE = 300 * MB
QUIET = Progress(steps_done=1, busy_seconds=None, busy_tokens=0, step_p99=0.01)


def stage(number: int = 0, weights: int = 1_000 * MB) -> StageInfo:
    return StageInfo(
        deployment="d", plan="p", epoch=1, stage=number, stages=2, start=0, end=1, model="m", weight_bytes=weights,
        kv_bytes=0, kv_tokens=1, kv_used_tokens=0, kv_held_bytes=0, sequences=0,
    )  # fmt: skip


def report(held: int, *stages: StageInfo, base: int = BASE, **changes: object) -> HealthReport:
    made = HealthReport(
        call=1, boot="b1", cpu_percent=0, process_cpu_percent=0, load_1m=0, memory_total=16_000 * MB,
        memory_available=8_000 * MB, process_memory=held, memory_base=base,
        memory_held=base + sum(each.weight_bytes for each in stages), memory_budget=8_000 * MB,
        memory_used=sum(each.weight_bytes for each in stages), disk_free=1, gpus=(), progress=QUIET, stages=stages,
        draining=False, loading=0, dropped=0,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def changes(watch: MemoryWatch, told: HealthReport, beats: int) -> int:
    """How often the watch changes its mind within so many beats that tell the same."""
    return sum(watch.judge(told) for _ in range(beats))


def settled(*stages: StageInfo) -> MemoryWatch:
    watch = MemoryWatch()
    assert changes(watch, report(BASE + sum(each.weight_bytes for each in stages), *stages), 3 * SETTLING_BEATS) == 0
    return watch


def test_a_difference_counts_once_it_has_lasted_and_is_told_once() -> None:
    watch = settled(stage())
    more = report(1_600 * MB, stage())
    assert changes(watch, more, LASTING_BEATS - 1) == 0
    assert watch.judge(more) and watch.differs
    assert (watch.base, watch.believed) == (BASE, BASE + 1_000 * MB)
    assert changes(watch, more, 100) == 0


def test_a_process_that_holds_less_than_it_believes_differs_too() -> None:
    watch = settled(stage())
    assert changes(watch, report(700 * MB, stage()), LASTING_BEATS) == 1 and watch.differs


def test_a_difference_is_over_when_it_is_clearly_smaller_and_not_before() -> None:
    watch = settled(stage())
    changes(watch, report(1_600 * MB, stage()), LASTING_BEATS)
    assert changes(watch, report(1_400 * MB, stage()), 100) == 0, "8 % begins nothing and ends nothing"
    calm = report(1_340 * MB, stage())
    assert changes(watch, calm, LASTING_BEATS - 1) == 0
    assert watch.judge(calm) and not watch.differs
    assert changes(watch, report(1_400 * MB, stage()), 100) == 0


def test_a_swing_that_does_not_last_is_no_difference() -> None:
    watch = settled(stage())
    for _ in range(20):
        assert changes(watch, report(1_900 * MB, stage()), LASTING_BEATS - 1) == 0
        assert not watch.judge(report(1_300 * MB, stage()))


def test_a_small_agent_may_move_by_some_tens_of_megabytes() -> None:
    small = stage(weights=10 * MB)
    watch = settled(small)
    assert changes(watch, report(BASE + 60 * MB, small), 100) == 0, "a sixth of it, and still nothing to tell"
    assert changes(watch, report(BASE + 80 * MB, small), LASTING_BEATS) == 1, "the first stage's code is in the base"


def test_nothing_is_judged_while_a_stage_is_loaded_or_has_just_come_or_gone() -> None:
    watch = settled(stage())
    assert changes(watch, report(3_000 * MB, stage(), loading=1), 100) == 0
    assert changes(watch, report(3_000 * MB, stage(), stage(1)), SETTLING_BEATS - 1 + LASTING_BEATS) == 0
    assert changes(watch, report(BASE + 2_000 * MB, stage(), stage(1)), 100) == 0
    assert changes(watch, report(BASE + 2_000 * MB, stage(1)), SETTLING_BEATS) == 0
    assert changes(watch, report(BASE + 1_000 * MB, stage(1)), 100) == 0


def test_the_activations_of_a_prompt_are_passed_over() -> None:
    watch = settled(stage())
    reading = Progress(steps_done=1, busy_seconds=0.5, busy_tokens=256, step_p99=0.5)
    assert changes(watch, report(1_900 * MB, stage(), progress=reading), 100) == 0
    answering = Progress(steps_done=1, busy_seconds=0.01, busy_tokens=1, step_p99=0.5)
    assert changes(watch, report(1_900 * MB, stage(), progress=answering), LASTING_BEATS) == 1


def test_what_was_undeployed_and_did_not_come_back_is_seen_though_the_agent_takes_it_for_its_base() -> None:
    watch = settled()
    assert changes(watch, report(BASE + 150 * MB, base=BASE + 150 * MB), 100) == 0, "code that was read meanwhile"
    assert changes(watch, report(1_300 * MB, base=1_300 * MB), LASTING_BEATS) == 1
    text = difference_text(watch.base, watch.believed, 1_300 * MB, idle=watch.idle)
    assert "1.3 GB of memory without any stage" in text and "has not come back" in text


def test_another_process_begins_with_a_clean_sheet() -> None:
    watch = settled(stage())
    changes(watch, report(1_900 * MB, stage()), LASTING_BEATS)
    assert watch.differs
    watch.judge(report(900 * MB, base=900 * MB, boot="b2"))
    assert not watch.differs
    assert changes(watch, report(900 * MB, base=900 * MB, boot="b2"), 100) == 0


def test_stages_on_a_gpu_are_judged_by_how_main_memory_grows() -> None:
    on_gpu = {"memory_held": BASE}
    watch = MemoryWatch()
    assert changes(watch, report(900 * MB, stage(), **on_gpu), 100) == 0, "what its libraries take is not known before"
    assert changes(watch, report(1_200 * MB, stage(), **on_gpu), LASTING_BEATS) == 1
    assert "900 MB by the agent itself)" in difference_text(watch.base, watch.believed, 1_200 * MB, idle=watch.idle)


def test_both_figures_are_said_and_what_to_do() -> None:
    more = difference_text(300 * MB, 1_300 * MB, 1_900 * MB, idle=False)
    assert more.startswith(
        "The agent's process holds 1.9 GB of memory, and 1.3 GB are accounted for (300 MB by the agent itself, "
        "1 GB by its stages): 600 MB more."
    )
    assert "stop the agent and start it again" in more
    less = difference_text(300 * MB, 1_300 * MB, 700 * MB, idle=False)
    assert "600 MB less" in less and "end other programs there" in less


def test_the_monitor_tells_of_a_difference_once_and_once_of_its_end() -> None:
    async def scenario() -> None:
        async with watched(beat_seconds=0.02) as w:
            w.agent.process_memory = w.agent.memory_held + 900 * MB
            judged = await w.next(NodeMemoryJudged)
            assert judged.differs and "1.2 GB" in judged.text and w.monitor.memory_problem(1) == judged.text
            w.agent.process_memory = w.agent.memory_held
            judged = await w.next(NodeMemoryJudged)
            assert not judged.differs and w.monitor.memory_problem(1) == ""
            await asyncio.sleep(0.5)
            assert not any(isinstance(event, NodeMemoryJudged) for event in w.events)

    asyncio.run(scenario())
