"""A conversation that is to be answered, as the chat API has it: what goes to the model, and what reads its answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.api.openai.bodies import ChatBody
from app.api.openai.conversation import for_template
from app.api.openai.errors import refused
from app.api.openai.generation import chat_parameters
from app.api.openai.tools import ToolUse
from app.errors import RequestError
from app.inference.chat_template import ChatTemplate
from app.inference.parameters import GenerationParameters
from app.inference.prompt import ChatPrompt
from app.inference.template_variables import check_variables, refuse_unread, with_effort
from app.inference.tokenizer import Tokenizer

if TYPE_CHECKING:
    from app.controller import Controller


@dataclass(frozen=True)
class ChatCall:
    """What a body asks for, once all of it is found to be possible."""

    prompt: ChatPrompt
    parameters: GenerationParameters
    tokenizer: Tokenizer
    use: ToolUse | None
    """The tools that may be called; None without."""

    @classmethod
    async def of(cls, controller: Controller, body: ChatBody) -> ChatCall:
        """Raises ApiError, RequestError, ModelError."""
        tokenizer = await controller.tokenizer(body.model)
        template = await asyncio.to_thread(controller.inference.template, body.model)  # one without is refused here
        use = await asyncio.to_thread(ToolUse.of, body, template)
        knows = any(message.role == "developer" for message in body.messages) and await asyncio.to_thread(
            template.knows_developer, with_tools=use is not None
        )
        messages = for_template(body.messages, knows_developer=knows)
        variables = await asyncio.to_thread(_variables, body, template, tokenizer, with_tools=use is not None)
        defaults = await asyncio.to_thread(controller.inference.defaults, body.model)
        parameters = chat_parameters(body, defaults, None if use is None else use.constraint, variables)
        prompt = ChatPrompt(tuple(messages), None if use is None else use.tools)
        return cls(prompt, parameters, tokenizer, use)


def _variables(
    body: ChatBody, template: ChatTemplate, tokenizer: Tokenizer, *, with_tools: bool
) -> dict[str, Any] | None:
    """What the template gets besides the conversation, if anything. Raises ApiError that names the field."""
    given = body.chat_template_kwargs or {}
    if not given and body.reasoning_effort is None:
        return None
    field = "chat_template_kwargs"
    try:
        read = template.variables(with_tools=with_tools)
        check_variables(given)
        refuse_unread(given, read)
        field = "reasoning_effort"
        return with_effort(given, body.reasoning_effort, read, template.format(tokenizer).thinks)
    except RequestError as error:
        raise refused(str(error), field) from error
