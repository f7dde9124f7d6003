"""What of the stages' states goes on over a Link: pure, from what the stages hold and what came round for certain.

The order matters as much as the lengths. In half precision the low bits of a step depend on who shares it, so whoever
had his turn next has it next again (docs/protocol.md, "Going on").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worker_agent.wire.messages import HeldState, Resumed


def resumption(
    held: Mapping[int, Sequence[HeldState]], certain: Mapping[int, int], *, all_left: bool = True
) -> tuple[Resumed, ...]:
    """The sequences that go on, in the order in which their turns come.

    Args:
        held: by stage, of each that is left, what it holds in the order of its turns; not empty.
        certain: by sequence, of each under way in the order in which they came, how many tokens all stages have
            computed for certain.
        all_left: whether no stage was lost; else states that were kept for later prompts are not complete.
    """
    by_stage = [{state.sequence: state for state in states} for states in held.values()]
    first = sorted(held[min(held)], key=lambda state: state.length <= certain.get(state.sequence, 2**31))
    resumed: dict[int, Resumed] = {}
    for state in first:
        number = state.sequence
        found = [states[number] for states in by_stage if number in states]
        everywhere = len(found) == len(by_stage)
        if number in certain:
            length = certain[number]
            possible = everywhere and all(each.least <= length <= each.length for each in found)
            # What the first stage believes over is not, where the last tokens were lost on their way here.
            kind = "runs" if state.kind == "kept" else state.kind
            resumed[number] = Resumed(number, length if possible else 0, kind, state.slot)
        elif state.kind == "kept" and all_left and everywhere:
            length = min(each.length for each in found)
            if all(each.least <= length for each in found) and length:
                resumed[number] = Resumed(number, length, "kept", state.slot)
    anew = [Resumed(number, 0) for number in certain if number not in resumed]
    return (*resumed.values(), *anew) if 0 in held else (*anew, *resumed.values())
