"""Models that say what a test wants: at each position of the context exactly one token is likely.

A GPT-2 whose layers add nothing: what is left is the position's vector, which the head turns into the token that the
script has there. The chat template makes a prompt as long as the place where the script of the question begins, so
that `say(3)` asks for the third script. Every token is a byte, but for the special ones: marks are cut as finely as
can be.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel

CONTEXT = 512
END = "<|endoftext|>"


def byte_tokenizer(special: Sequence[str], added: Sequence[str] = ()) -> tokenizers.Tokenizer:
    """A token a byte; `special` ones do not show, `added` ones are text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE({character: index for index, character in enumerate(alphabet)}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END, *special])
    tokenizer.add_tokens([tokenizers.AddedToken(text, normalized=False) for text in added])
    return tokenizer


def make_scripted_model(
    folder: Path, template: str, scripts: Sequence[str], special: Sequence[str] = (), added: Sequence[str] = ()
) -> Path:
    """A model folder. `template` is a chat template; what it renders is brought to length with `x` on the left.

    Question number n, as a user's message of that number, is answered with `scripts[n]`.
    """
    folder.mkdir(parents=True)
    tokenizer = byte_tokenizer(special, added)
    end = tokenizer.token_to_id(END)
    script, starts = [end] * CONTEXT, []
    place = 96  # no prompt is longer than the first
    for text in scripts:
        ids = [*tokenizer.encode(text).ids, end]
        starts.append(place)
        script[place - 1 : place - 1 + len(ids)] = ids
        place += len(ids)
    assert place < CONTEXT, "the scripts are too long"
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(), n_positions=CONTEXT, n_embd=CONTEXT, n_layer=2, n_head=8, n_inner=8,
        tie_word_embeddings=False, bos_token_id=end, eos_token_id=end,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.transformer.h.parameters():
            parameter.zero_()
        model.transformer.wte.weight.zero_()
        model.transformer.wpe.weight.copy_(torch.eye(CONTEXT))
        model.lm_head.weight.zero_()
        model.lm_head.weight[torch.tensor(script), torch.arange(CONTEXT)] = 1.0
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
    (folder / "chat_template.jinja").write_text(_with_length(template, starts, tokenizer), "utf-8")
    return folder


def _with_length(template: str, starts: Sequence[int], tokenizer: tokenizers.Tokenizer) -> str:
    """The template, behind as many characters as bring the prompt to where the answer begins.

    A special token is one token and many characters; how many of them a prompt has, its text tells.
    """
    marks = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    counted = "".join(f"{{%- set ns.size = ns.size - text.count({mark!r}) * {len(mark) - 1} %}}" for mark in marks)
    return (
        f"{{%- set starts = {list(starts)} %}}{{%- set number = messages[-1].content | int %}}"
        f"{{%- set text %}}{{{{ messages[-1].content }}}}{template}{{% endset %}}"
        f"{{%- set ns = namespace(size=text | length) %}}{counted}"
        "{{- 'x' * (starts[number] - ns.size) }}{{- text }}"
    )
