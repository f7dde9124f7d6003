"""The body of a request to the parameters of a generation; refuses what cannot be honoured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from app.api.openai.bodies import ChatBody, CompletionBody, GenerationBody
from app.api.openai.errors import refused
from app.api.openai.unknown import refuse_unknown
from app.api.openai.wanted_form import wanted_form
from app.inference.constraint import Constraint
from app.inference.model_defaults import ModelDefaults
from app.inference.parameters import MAX_SEED, GenerationParameters

USUAL_TEMPERATURE = 1.0
"""The OpenAI API's, for models that say nothing of sampling."""


def completion_parameters(body: CompletionBody, defaults: ModelDefaults) -> GenerationParameters:
    """Raises ApiError, RequestError."""
    if body.best_of not in (None, body.choices):
        raise refused("best_of is not supported; leave it out, and ask for several answers with n.", "best_of")
    if body.suffix:
        raise refused("suffix is not supported: the model writes on, it does not fill in.", "suffix")
    if body.max_tokens == 0 and not body.echo:
        raise refused("max_tokens is 0, so there is nothing to answer; 0 is allowed with echo only.", "max_tokens")
    return GenerationParameters(
        **_common(body, defaults),
        # Nothing can be said of a prompt without a step that samples: that token is not shown.
        max_tokens=1 if body.max_tokens == 0 else body.max_tokens,
        logprobs=body.logprobs,
        **_given(prompt_logprobs=body.logprobs if body.echo else None, constraint=wanted_form(body)),
    )


def chat_parameters(
    body: ChatBody,
    defaults: ModelDefaults,
    call_constraint: Constraint | None = None,
    variables: Mapping[str, Any] | None = None,
) -> GenerationParameters:
    """Raises ApiError, RequestError.

    Args:
        variables: what the chat template gets besides the conversation.
        call_constraint: what holds the model to calling a tool.
    """
    _refuse_what_is_not_there(body)
    if body.top_logprobs and not body.logprobs:
        raise refused("top_logprobs needs logprobs to be true.", "top_logprobs")
    most = body.most_tokens
    if most == 0:
        name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        raise refused(f"{name} is 0, so there is nothing to answer.", name)
    return GenerationParameters(
        **_common(body, defaults),
        max_tokens=defaults.values.get("max_tokens") if most is None else most,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        **_given(constraint=call_constraint or wanted_form(body), chat_template_kwargs=variables),
    )


def numbered(parameters: GenerationParameters, index: int) -> GenerationParameters:
    """The parameters of choice `index`: each has a seed of its own, so that they differ, and can be made again."""
    if index == 0 or parameters.seed is None:
        return parameters
    return msgspec.structs.replace(parameters, seed=(parameters.seed + index) % (MAX_SEED + 1))


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _common(body: GenerationBody, defaults: ModelDefaults) -> dict[str, Any]:
    """What both kinds of request have; a null means that nothing was said. Raises ApiError."""
    refuse_unknown(body)
    if body.stream_options is not None and not body.stream:
        raise refused("stream_options is only for requests with stream set to true.", "stream_options")
    temperature = body.temperature
    if temperature is None and defaults.samples is None:
        temperature = USUAL_TEMPERATURE if defaults.temperature is None else defaults.temperature
    return _given(
        temperature=temperature,
        top_k=None if body.top_k is None else max(0, body.top_k),
        top_p=body.top_p,
        min_p=body.min_p,
        typical_p=body.typical_p,
        epsilon_cutoff=body.epsilon_cutoff,
        eta_cutoff=body.eta_cutoff,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        no_repeat_ngram_size=body.no_repeat_ngram_size,
        logit_bias=body.logit_bias,
        bad_words_ids=None if body.bad_words_ids is None else tuple(map(tuple, body.bad_words_ids)),
        suppress_tokens=_tuple(body.suppress_tokens),
        begin_suppress_tokens=_tuple(body.begin_suppress_tokens),
        seed=body.seed,
        stop=body.stops,
        stop_token_ids=_tuple(body.stop_token_ids),
        include_stop_str_in_output=body.include_stop_str_in_output,
        skip_special_tokens=body.skip_special_tokens,
        min_tokens=body.min_tokens,
        ignore_eos=body.ignore_eos,
    )


def _tuple(values: list[int] | None) -> tuple[int, ...] | None:
    return None if values is None else tuple(values)


def _refuse_what_is_not_there(body: ChatBody) -> None:
    for name, instead in (
        ("functions", "Use tools."),
        ("function_call", "Use tool_choice."),
        ("audio", "The answer is text."),
        ("web_search_options", "The model cannot search the web."),
        ("chat_template", "The model's own template is used."),
    ):
        if getattr(body, name):
            raise refused(f"{name} is not supported. {instead}", name)
    if body.modalities not in (None, [], ["text"]):
        raise refused("modalities: the answer is text.", "modalities")
    if body.continue_final_message or body.add_generation_prompt is False:
        name = "continue_final_message" if body.continue_final_message else "add_generation_prompt"
        raise refused(f"{name}: the answer is always a new message. Use /v1/completions for all else.", name)
