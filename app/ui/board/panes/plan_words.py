"""What is said of a draft: memory and speed, beside those of the best single node, and what is in its way. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.figures import duration, size_text, token_rate
from app.runs.foreseen import brief_correction, corrected_text
from app.sharding.arrangement import Arrangement
from app.sharding.planning.aims import AIMS
from app.sharding.prediction import Prediction

if TYPE_CHECKING:
    from app.ui.board.state.board_model import BoardModel

MOST_REASONS = 24
"""Lines of a tip that are still read."""


def speed_text(prediction: Prediction) -> str:
    """about 31 tokens/s, first token in 0.4 s"""
    rate = prediction.tokens_per_second
    speed = token_rate(round(rate) if rate >= 10 else rate)  # a guess has no tenths
    return f"about {speed}, first token in {duration(prediction.first_token_seconds)}"


def memory_needed(draft: Arrangement) -> int:
    """Bytes of weights and KV cache on all nodes together."""
    return sum(draft.sizes.memory(start, end) for start, end in draft.ranges)


def outlook_text(board: BoardModel) -> str:
    """The draft's memory and speed, or why nobody can tell: 32.2 GB over 3 nodes · about 12 tokens/s, …"""
    draft = board.arrangement
    if draft is None:
        return "Choose a model on the left."
    if draft.is_untouched:
        needed = size_text(draft.sizes.memory(0, draft.description.num_layers))
        return f"Needs {needed}. Drag the model onto the board, or let a plan be proposed."
    if not draft.is_placed:
        return f"{size_text(memory_needed(draft))} · the speed is predicted once every shard has a node"
    memory = f"{size_text(memory_needed(draft))} {_over(draft)}"
    prediction = board.prediction
    if prediction is None:
        return f"{memory} · no speed is predicted: a node has not measured itself in this dtype yet"
    corrected = brief_correction(prediction.correction, prediction.corrected_runs)
    return f"{memory} · {speed_text(prediction)}" + (f" · corrected {corrected}" if corrected else "")


def _over(draft: Arrangement) -> str:
    count = len(set(draft.nodes))
    return "on 1 node" if count == 1 else f"over {count} nodes"


def outlook_tip(board: BoardModel) -> str:
    """How much each node takes, and where a token's time goes."""
    draft = board.arrangement
    if draft is None or draft.is_untouched:
        return ""
    memory = [
        f"Shard {stage + 1}: {size_text(draft.sizes.weights(piece.start, piece.end))} of weights, "
        f"{size_text(draft.sizes.kv(piece.start, piece.end))} of KV cache"
        for stage, piece in enumerate(draft.pieces)
    ]
    prediction = board.prediction
    if prediction is None:
        return "\n".join(memory)
    lines = [f"Shard {stage + 1}: {share:.0%} of a token's time" for stage, share in enumerate(prediction.share)]
    lines.append(f"Between the nodes: {prediction.network_share:.0%}")
    if corrected := corrected_text(prediction.correction, prediction.corrected_runs):
        lines.append(f"Corrected {corrected}")
    lines += board.assumed
    return "\n".join([*memory, "", f"For a prompt of {prediction.prompt_tokens} tokens, one answer at a time:", *lines])


def single_text(board: BoardModel) -> str:
    """The best single node, to compare with: memory and speed."""
    draft = board.arrangement
    if draft is None:
        return ""
    if not board.capacities():
        return "No node is available"
    best = board.best_single
    needed = size_text(draft.sizes.memory(0, draft.description.num_layers))
    if best is None:
        return f"No single node can hold its {needed}"
    if best.prediction is None:
        return f"{best.node.name} alone could hold its {needed}"
    return f"Best single node: {best.node.name}, {needed}, {speed_text(best.prediction)}"


def plan_text(board: BoardModel) -> str:
    """Of a plan as it was proposed, what it was chosen for: Planned for the fastest answer. Empty for any other."""
    planned = board.planned
    if planned is None:
        return ""
    return planned.remark or f"Planned for: {AIMS[planned.aim]}"


def plan_tip(board: BoardModel) -> str:
    """Why each node takes what it takes, a line each."""
    planned = board.planned
    if planned is None:
        return ""
    told = [reason.sentence for reason in planned.reasons]
    more = [f"and {len(told) - MOST_REASONS} more nodes"] if len(told) > MOST_REASONS else []
    about = [f"Planned for: {AIMS[planned.aim]}", *([planned.remark] if planned.remark else []), ""]
    return "\n".join([*about, *told[:MOST_REASONS], *more])


def warning_text(board: BoardModel) -> str:
    """What must be mended before the draft can be deployed; empty when nothing must."""
    draft = board.arrangement
    if draft is None or draft.is_untouched or board.is_deploying:
        return ""
    words = []
    for lane in board.lanes():
        mine = any(block.stage is not None for block in lane.blocks)
        if mine and lane.shortage:
            words.append(f"{lane.node.name} lacks {size_text(lane.shortage)}.")
        if mine and not lane.available and not board.is_loaded:
            words.append(f"{lane.node.name} is not available.")
    lost = [str(stage + 1) for stage, node in enumerate(draft.nodes) if node is None]
    if len(lost) == 1:
        words.append(f"Shard {lost[0]} has no node yet.")
    elif lost:
        words.append(f"Shards {', '.join(lost[:-1])} and {lost[-1]} have no node yet.")
    return " ".join(words)


def state_text(board: BoardModel) -> str:
    """Whether what is shown is what is loaded."""
    if board.arrangement is None:
        return ""
    if board.is_loaded:
        return "Deployed as shown"
    if board.moves:
        return f"{'Stages can move' if board.can_replicate else 'Can be cut anew'} while it answers"
    if board.loaded is not None:
        return "Differs from what is deployed"
    return "Not deployed"
