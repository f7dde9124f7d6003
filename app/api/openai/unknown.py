"""Fields of a request that are not honoured here: which may be there all the same, and what is said of the others."""

from __future__ import annotations

import difflib
from typing import Any

from app.api.openai.bodies import SamplingBody
from app.api.openai.errors import refused

HARMLESS = frozenset(
    {
        # the OpenAI API's: about accounts, bills and caches
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
        "prediction",
        # vLLM's and llama.cpp's: about queues and caches, and which library holds an answer to a grammar
        "priority", "request_id", "cache_salt", "cache_prompt", "id_slot", "slot_id", "guided_decoding_backend",
        "keep_alive",
    }
)  # fmt: skip
"""They change nothing about an answer, so nobody is misled when they have no effect."""

_MAX_TOKENS, _PENALTY = "use max_tokens", "use repetition_penalty"
NEUTRAL: dict[str, tuple[tuple[Any, ...], str]] = {
    # vLLM's
    "use_beam_search": ((False,), "answers are made token by token, without beams"),
    "length_penalty": ((1, 1.0), "answers are made token by token, without beams"),
    "early_stopping": ((False,), "answers are made token by token, without beams"),
    "truncate_prompt_tokens": ((), "shorten the prompt before it is sent"),
    "allowed_token_ids": ((), "use guided_choice, guided_regex or logit_bias"),
    "bad_words": (([],), "use bad_words_ids, which has the words as token ids"),
    "spaces_between_special_tokens": ((True,), "special tokens are written without spaces"),
    "add_special_tokens": ((), "the model's tokenizer, or its chat template, says which are added"),
    "detokenize": ((True,), "answers are texts"),
    "return_tokens_as_token_ids": ((False,), "tokens are told by their texts"),
    "return_token_ids": ((False,), "tokens are told by their texts"),
    "prompt_logprobs": ((), "use echo with logprobs, at /v1/completions"),
    "logits_processors": (([],), "no code is taken from clients"),
    "logits_processor_pattern": ((), "no code is taken from clients"),
    "guided_whitespace_pattern": ((), "JSON is written as the model likes"),
    "echo": ((False,), "a chat has no prompt to echo; use /v1/completions"),
    "documents": (([],), "put them into a message"),
    "mm_processor_kwargs": (({},), "the model reads text only"),
    # llama.cpp's
    "n_predict": ((-1,), _MAX_TOKENS),
    "n_probs": ((0,), "use logprobs and top_logprobs"),
    "repeat_penalty": ((1, 1.0), _PENALTY),
    "repeat_last_n": ((), _PENALTY),
    "mirostat": ((0,), "use temperature, top_p and min_p"),
    "tfs_z": ((1, 1.0), "use top_p, min_p or typical_p"),
    "top_a": ((0, 0.0), "use top_p, min_p or typical_p"),
    "dry_multiplier": ((0, 0.0), "use no_repeat_ngram_size"),
    "xtc_probability": ((0, 0.0), "use temperature"),
    "dynatemp_range": ((0, 0.0), "use temperature"),
    "samplers": ((), "the samplers and their order are fixed"),
    # transformers' and text-generation-inference's
    "max_new_tokens": ((), _MAX_TOKENS),
    "max_length": ((), _MAX_TOKENS),
    "do_sample": ((), "temperature 0 is greedy, anything above samples"),
    "num_beams": ((1,), "answers are made token by token, without beams"),
    # Ollama's
    "options": (({},), "give its parameters one by one"),
    "format": ((), "use response_format"),
    # the OpenAI API's, at another of its endpoints
    "messages": ((), "the conversation is the input"),
    "n": ((1,), "a response is one answer; use /v1/chat/completions"),
    "max_tokens": ((), "use max_output_tokens"),
    "max_completion_tokens": ((), "use max_output_tokens"),
    "max_output_tokens": ((), _MAX_TOKENS),
    "logprobs": ((False,), "use include with message.output_text.logprobs, and top_logprobs"),
    "response_format": ((), "use text.format"),
    "reasoning_effort": ((), "use reasoning.effort"),
    "text": ((), "use response_format"),
    "reasoning": ((), "use reasoning_effort"),
    "input": ((), "use messages, or prompt"),
    "instructions": ((), "use a message of the role system"),
    "previous_response_id": ((), "use /v1/responses"),
    # the OpenAI API's newer ones
    "verbosity": (("medium",), "say in a message how long the answer should be"),
    "moderation": ((), "nothing is moderated"),
}
"""Known elsewhere and not here: the values that ask for what is done anyway, and what to do instead."""


def refuse_unknown(body: SamplingBody) -> None:
    """Raises ApiError that names the first field which would make a difference, and cannot."""
    for name, value in (body.model_extra or {}).items():
        if value is None or name in HARMLESS:
            continue
        usual, instead = NEUTRAL.get(name, ((), ""))
        if any(value == one and type(value) is type(one) for one in usual):
            continue
        if not instead:
            alike = difflib.get_close_matches(name, type(body).model_fields, n=1, cutoff=0.8)
            instead = f"did you mean {alike[0]}?" if alike else "leave it out, or see docs/openai.md for what there is"
        raise refused(
            f"{name[:100]} is not supported: {instead}".rstrip(".?") + ("?" if "mean" in instead else "."), name[:100]
        )
    if body.stream_options is not None and (extra := _first(body.stream_options.model_extra)):
        raise refused(f"stream_options.{extra} is not supported; leave it out.", f"stream_options.{extra}")


def _first(extra: dict[str, Any] | None) -> str:
    """The first of these fields that asks for something."""
    return next((name[:100] for name, value in (extra or {}).items() if value not in (None, False)), "")
