"""By which token a chat model ends its answers, when its chat template alone says so.

Many chat models are made of a base model whose config and tokenizer name the end of a document only; what they were
trained to end a message with stands in the template.
"""

from __future__ import annotations

from dataclasses import replace

from app.errors import RequestError
from app.inference.chat_template import ChatTemplate
from app.inference.tokenizer import Tokenizer

_QUESTION, _ANSWER = "Shardboard asks", "Shardboard answers"


def with_chat_ends(tokenizer: Tokenizer, template: ChatTemplate | None) -> Tokenizer:
    """The tokenizer, to whose ends of text that of an assistant's message was added."""
    end = None if template is None else chat_end(tokenizer, template)
    if end is None or end in tokenizer.eos_ids:
        return tokenizer
    return replace(tokenizer, eos_ids=(*tokenizer.eos_ids, end))


def chat_end(tokenizer: Tokenizer, template: ChatTemplate) -> int | None:
    """The special token that the template writes right behind an assistant's message; None where there is none."""
    messages = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = template.render(messages, add_generation_prompt=False)
    except RequestError:  # it wants conversations of another kind, and will say so when it is asked for one
        return None
    before, found, behind = text.rpartition(_ANSWER)
    if not found or _QUESTION not in before:
        return None
    ids = tokenizer.encode(behind.lstrip(), add_special_tokens=False)
    return ids[0] if ids and ids[0] in tokenizer.special_ids else None
