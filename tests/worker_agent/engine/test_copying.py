"""A stage is handed over in the middle of answers; what comes afterwards is what would have come, to the last bit."""

from __future__ import annotations

import itertools

import pytest
import safetensors.torch
import torch
from msgspec.structs import replace

from tests.sparsely import every_second
from tests.worker_agent.causal_types import VOCABULARY as SMALL
from tests.worker_agent.causal_types import make_model as make_any
from tests.worker_agent.engine.test_going_on import MOMENTS, Case, crowded, many, stages
from tests.worker_agent.recovering import RecoveringRing, Wish
from tests.worker_agent.ring import Ring, cut_model, random_prompt
from worker_agent.engine.copying import StateCopies
from worker_agent.engine.memory.aside import Aside
from worker_agent.engine.memory.pool import StatePool
from worker_agent.engine.memory.rows import RowPool
from worker_agent.engine.ring import RingPlace
from worker_agent.engine.stage import Stage
from worker_agent.wire.errors import OutOfStep, UnknownStage, WireError
from worker_agent.wire.messages import MAX_STATES_BYTES, Copied, ReadStates, WriteStates

__all__ = ["crowded", "many", "stages"]  # fixtures


def handed_over(case: Case, turns: int, *moved: int, rests: bool = True) -> RecoveringRing:
    ring = case.ring()
    ring.serve(case.wishes, turns)
    ring.hand_over(moved, rests=rests)
    ring.serve(case.wishes)
    return ring


@pytest.mark.parametrize(("turns", "moved"), list(itertools.product(MOMENTS[1:5:3], [(0,), (1,), (2,), (0, 1, 2)])))
def test_a_stage_is_handed_over_to_the_last_bit(many: Case, turns: int, moved: tuple[int, ...]) -> None:
    ring = handed_over(many, turns, *moved)
    many.check(ring)
    begun = [each for each in ring.resumed if each.kind == "runs"]
    assert turns < 20 or all(each.length for each in begun), "nobody had to begin anew"


@pytest.mark.parametrize("turns", (20, 60))
def test_what_was_under_way_is_computed_once_more(many: Case, turns: int) -> None:
    many.check(handed_over(many, turns, 1, rests=False))


@pytest.mark.parametrize("turns", every_second(range(110, 156, 14)))
def test_those_that_have_yielded_move_with_it(crowded: Case, turns: int) -> None:
    ring = handed_over(crowded, turns, 1, 2)
    crowded.check(ring)
    if turns in range(114, 156):
        assert "aside" in {each.kind for each in ring.resumed}


def test_most_is_copied_while_the_stage_works(many: Case) -> None:
    ring = many.ring()
    ring.serve(many.wishes, 20)
    ring.hand_over((1,))
    assert ring.copied, "nothing was copied in parts"


def test_a_stage_is_handed_over_again_and_again(many: Case) -> None:
    ring = many.ring()
    for turns, moved in ((25, (1,)), (9, (2,)), (4, (1, 0)), (11, (1,))):
        ring.serve(many.wishes, turns)
        ring.hand_over(moved)
    ring.serve(many.wishes)
    many.check(ring)


@pytest.mark.parametrize(("moved", "lost"), [((1,), (2,)), ((0,), (1,)), ((2,), (0,)), ((0, 1), (1, 2))])
def test_a_stage_that_is_lost_after_another_has_moved_is_computed_again_to_the_last_bit(
    many: Case, moved: tuple[int, ...], lost: tuple[int, ...]
) -> None:
    """From the journal that came along, and went on where it is now."""
    ring = many.ring()
    ring.serve(many.wishes, 45)
    ring.hand_over(moved)
    ring.serve(many.wishes, 6)
    before = ring.halt(lost)
    ring.go_on(before)
    begun = [each for each in ring.resumed if each.kind == "runs" and ring.committed(each.sequence)]
    assert begun and all(each.length for each in begun), "nobody had to begin anew"
    ring.serve(many.wishes)
    many.check(ring)


def test_a_journal_to_which_the_last_steps_have_not_come_covers_nobody_that_needs_them(many: Case) -> None:
    ring = many.ring()
    ring.copies_journals = False
    ring.serve(many.wishes, 45)
    ring.hand_over((1,))
    (journal,) = {id(runner): runner._journal for runner in ring.runners if runner.load.stage == 1}.values()
    assert journal is not None
    assert not any(journal.covers(each.sequence) for each in ring.resumed if each.kind == "runs")


def test_a_bit_that_was_copied_wrongly_shows(many: Case) -> None:
    ring = many.ring()
    ring.serve(many.wishes, 30)

    def spoil(frame: bytes) -> bytes:
        tensors = safetensors.torch.load(frame)
        return safetensors.torch.save({name: torch.zeros_like(tensor) for name, tensor in tensors.items()})

    ring.spoil_copy = spoil
    ring.hand_over((1,))
    ring.serve(many.wishes)
    with pytest.raises(AssertionError):
        many.check(ring)


@pytest.mark.parametrize(("kind", "dtype"), [("mamba", "float32"), ("gemma3_text", "bfloat16")])
def test_states_that_cannot_be_cut_move_as_a_whole(
    kind: str, dtype: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Recurrences, and windows that have moved on: each sequence has a pass of its own."""
    folder = tmp_path_factory.mktemp(kind)
    make_any(kind, folder / "model")
    cut = cut_model(folder / "model", folder / "parts")
    loaded: list[Stage] = [runner.stage for runner in Ring.build(cut, [cut.anatomy.cuts[0]], dtype=dtype).runners]
    wishes = {number: Wish(random_prompt(20 + number, SMALL, number), 20) for number in range(3)}
    case = Case.undisturbed(loaded, wishes, lanes=1)
    for moved in ((1,), (0, 1)):
        ring = handed_over(case, 30, *moved)
        case.check(ring)
        assert all(each.length for each in ring.resumed)


def copies(rows: RowPool | None = None) -> tuple[StateCopies, StatePool, RingPlace[int, int]]:
    pool, place = StatePool((rows or RowPool(4, 64)).state, Aside(None, "")), RingPlace[int, int]("p", 3)
    return StateCopies(pool, place, torch.device("cpu")), pool, place


def read(*have: Copied, max_bytes: int = MAX_STATES_BYTES, epoch: int = 3) -> ReadStates:
    return ReadStates(call=1, deployment="d", stage=0, epoch=epoch, have=have, max_bytes=max_bytes)


def filled(pool: StatePool, number: int, tokens: int, value: float = 1.0) -> None:
    pool.admit(number, tokens)
    rows = torch.full((1, tokens, 4), value)
    pool[number].imported({"0.keys": rows, "0.values": rows + 1}, tokens)


def test_what_has_changed_where_it_was_copied_is_copied_anew() -> None:
    source, pool, _ = copies()
    filled(pool, 7, 10)
    page, _ = source.read(read())
    (part,) = page.parts
    copied = Copied(7, part.version, part.end)
    assert not source.read(read(copied))[0].parts
    pool[7].imported({"0.keys": torch.ones(1, 2, 4), "0.values": torch.ones(1, 2, 4)}, 12)
    assert [(each.start, each.end) for each in source.read(read(copied))[0].parts] == [(10, 12)]
    pool[7].truncate(5)
    pool[7].imported({"0.keys": torch.ones(1, 7, 4), "0.values": torch.ones(1, 7, 4)}, 12)
    assert [(each.start, each.end) for each in source.read(read(copied))[0].parts] == [(0, 12)]


def test_pages_are_as_small_as_is_asked_for_and_put_together_again() -> None:
    source, pool, _ = copies()
    target, other, _ = copies()
    filled(pool, 7, 40)
    filled(pool, 8, 3, 5.0)
    have: dict[int, Copied] = {}
    pages = 0
    complete = False
    while not complete:
        page, payload = source.read(read(*have.values(), max_bytes=300))
        assert sum(map(len, payload)) < 1000
        have |= {part.sequence: Copied(part.sequence, part.version, part.end) for part in page.parts}
        target.write(WriteStates(call=1, deployment="d", stage=0, parts=page.parts, present=page.present), payload)
        complete, pages = page.complete, pages + 1
    assert pages > 4
    for number in (7, 8):
        assert other[number].slot == pool[number].slot and other.known(number) == pool.known(number)
        for name, tensor in pool[number].exported().items():
            assert torch.equal(other[number].exported()[name], tensor)


def test_what_is_over_is_let_go() -> None:
    source, pool, _ = copies()
    target, other, _ = copies()
    filled(pool, 7, 4)
    page, payload = source.read(read())
    write = WriteStates(call=1, deployment="d", stage=0, parts=page.parts, present=page.present)
    target.write(write, payload)
    pool.release(7)
    page, payload = source.read(read())
    assert not payload and not page.parts
    target.write(replace(write, parts=(), present=page.present), ())
    assert 7 not in other


def test_what_does_not_fit_is_refused() -> None:
    source, pool, _ = copies()
    filled(pool, 7, 4)
    with pytest.raises(UnknownStage, match="epoch 3"):
        source.read(read(epoch=2))
    page, payload = source.read(read())
    write = WriteStates(call=1, deployment="d", stage=0, parts=page.parts, present=page.present)
    target, _, place = copies()
    with pytest.raises(WireError, match="cannot be read"):
        target.write(write, (b"nonsense",))
    with pytest.raises(OutOfStep, match="has not been copied"):
        target.write(replace(write, parts=(replace(page.parts[0], start=2),)), payload)
    with pytest.raises(OutOfStep, match="holds no keys and values"):
        target.write(replace(write, parts=(replace(page.parts[0], end=9),)), payload)
    with pytest.raises(WireError, match="no part was announced"):
        target.write(replace(write, parts=(replace(page.parts[0], sequence=9),)), payload)
    place.link(4)
    with pytest.raises(OutOfStep, match="not while it runs"):
        target.write(write, payload)
