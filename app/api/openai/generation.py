"""The body of a request to the parameters of a generation; refuses what cannot be honoured."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from app.api.openai.bodies import ChatBody, CompletionBody, GenerationBody, ResponseFormat
from app.api.openai.errors import refused
from app.errors import RequestError
from app.inference.parameters import MAX_SEED, GenerationParameters

if TYPE_CHECKING:
    from app.inference.constraint import Constraint


def completion_parameters(body: CompletionBody) -> GenerationParameters:
    """Raises ApiError, RequestError."""
    if body.best_of not in (None, body.choices):
        raise refused("best_of is not supported; leave it out, and ask for several answers with n.", "best_of")
    if body.suffix:
        raise refused("suffix is not supported: the model writes on, it does not fill in.", "suffix")
    if body.max_tokens == 0 and not body.echo:
        raise refused("max_tokens is 0, so there is nothing to answer; 0 is allowed with echo only.", "max_tokens")
    return GenerationParameters(
        **_common(body),
        # Nothing can be said of a prompt without a step that samples: that token is not shown.
        max_tokens=1 if body.max_tokens == 0 else body.max_tokens,
        logprobs=body.logprobs,
        **_given(prompt_logprobs=body.logprobs if body.echo else None, constraint=constraint_of(body.response_format)),
    )


def chat_parameters(body: ChatBody, call_constraint: Constraint | None = None) -> GenerationParameters:
    """Raises ApiError, RequestError.

    Args:
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
        **_common(body),
        max_tokens=most,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        **_given(constraint=call_constraint or constraint_of(body.response_format)),
    )


def numbered(parameters: GenerationParameters, index: int) -> GenerationParameters:
    """The parameters of choice `index`: each has a seed of its own, so that they differ, and can be made again."""
    if index == 0 or parameters.seed is None:
        return parameters
    return msgspec.structs.replace(parameters, seed=(parameters.seed + index) % (MAX_SEED + 1))


def constraint_of(wanted: ResponseFormat | None) -> Constraint | None:
    """Raises ApiError, RequestError when the schema cannot be followed."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        from app.inference.constraint import Constraint

        return Constraint("json_object")
    schema = None if wanted.json_schema is None else wanted.json_schema.schema_
    if schema is None:
        raise refused("response_format has no schema.", "response_format.json_schema", "missing_required_parameter")
    return schema_constraint(schema, "response_format.json_schema.schema")


def schema_constraint(schema: dict[str, Any], param: str) -> Constraint:
    """Raises ApiError when the schema cannot be followed."""
    from app.inference.constraint import Constraint

    try:
        return Constraint("json_schema", json.dumps(schema))
    except RequestError as error:
        raise refused(str(error), param) from error


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _common(body: GenerationBody) -> dict[str, Any]:
    """What both kinds of request have; a null means the default. Raises ApiError."""

    if body.stream_options is not None and not body.stream:
        raise refused("stream_options is only for requests with stream set to true.", "stream_options")

    def given(value: Any, default: Any) -> Any:
        return default if value is None else value

    return {
        "temperature": given(body.temperature, 1.0),
        "top_k": max(0, given(body.top_k, 0)),
        "top_p": given(body.top_p, 1.0),
        "min_p": given(body.min_p, 0.0),
        "repetition_penalty": given(body.repetition_penalty, 1.0),
        "presence_penalty": given(body.presence_penalty, 0.0),
        "frequency_penalty": given(body.frequency_penalty, 0.0),
        "logit_bias": given(body.logit_bias, {}),
        "seed": body.seed,
        "stop": body.stops,
        "min_tokens": given(body.min_tokens, 0),
        "ignore_eos": given(body.ignore_eos, False),
    }


def _refuse_what_is_not_there(body: ChatBody) -> None:
    for name, instead in (
        ("functions", "Use tools."),
        ("function_call", "Use tool_choice."),
        ("audio", "The answer is text."),
        ("web_search_options", "The model cannot search the web."),
        ("chat_template", "The model's own template is used."),
        ("chat_template_kwargs", "The model's own template is used as it is."),
    ):
        if getattr(body, name):
            raise refused(f"{name} is not supported. {instead}", name)
    if body.modalities not in (None, [], ["text"]):
        raise refused("modalities: the answer is text.", "modalities")
    if body.continue_final_message or body.add_generation_prompt is False:
        name = "continue_final_message" if body.continue_final_message else "add_generation_prompt"
        raise refused(f"{name}: the answer is always a new message. Use /v1/completions for all else.", name)
