"""A model's chat template: messages to the text that the model was trained on.

The same jinja2 environment as transformers' (sandboxed, immutable, the same filters and globals), without transformers.
A template comes with the model and is not to be trusted: it sees plain data only, and its steps, its time and the size
of what it makes are bounded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import jinja2
from jinja2 import ext, meta, nodes, parser, sandbox, utils

from app.errors import ModelError, RequestError
from app.inference.chat_format import ChatFormat
from app.inference.prompt import Message
from app.inference.template_guard import Bounds, GuardedEnvironment, guard
from app.inference.template_probes import Form, Show, as_parts, content_form, shows_tools
from app.inference.tokenizer import Tokenizer
from app.models.checkpoint import MORE_CHAT_TEMPLATES
from app.models.tokenizer_reading import read_json

"""`role`, `content` (text, or a list of parts with a `type`), and whatever else the template knows."""

T = TypeVar("T")

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
"""Of which is observed in what form a template shows them."""
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True)
class ChatTemplate:
    """The templates of one model by name, mostly just `default`. Made by `open`."""

    sources: Mapping[str, str]
    named_tokens: Mapping[str, str]
    """Special tokens that templates refer to: `bos_token`, `eos_token`, …"""

    @classmethod
    def open(cls, folder: Path, named_tokens: Mapping[str, str]) -> ChatTemplate | None:
        """Read a model folder's chat template; None when the model has none.

        Files win over the older ways: `chat_template.jinja` and `additional_chat_templates/`, then the entry of
        `tokenizer_config.json`, then `chat_template.json`. Raises ModelError when one of them cannot be read.
        """
        files = {"default": folder / "chat_template.jinja"}
        files |= {path.stem: path for path in sorted((folder / MORE_CHAT_TEMPLATES).glob("*.jinja"))}
        try:
            sources = {name: path.read_text("utf-8") for name, path in files.items() if path.is_file()}
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"A chat template of {folder} cannot be read: {error}.", "Get the file again.") from error
        for name in ("tokenizer_config.json", "chat_template.json"):
            sources = sources or _named_sources(read_json(folder / name).get("chat_template"))
        return cls(sources, dict(named_tokens)) if sources else None

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt's text, special tokens spelt out: encode it without adding special tokens.

        Args:
            messages: the conversation, oldest first.
            tools: JSON schemas of functions, as the OpenAI API has them.
            add_generation_prompt: end with the beginning of an answer.
            variables: further variables of the template, `enable_thinking` for one.

        Raises:
            RequestError: the template refuses the conversation (with its sentence), is broken, or does not end.
        """
        if not messages:
            raise RequestError("A conversation without messages has nothing to answer.", "Give at least one message.")
        template = self._compile(tools is not None)
        formed = self._in_form(messages, with_tools=tools is not None)
        with guard() as bounds:
            text = self._render(template, formed, tools, add_generation_prompt, variables, bounds)
        if self._form("user", with_tools=tools is not None) == "nothing" and _drops_a_question(messages, text):
            raise RequestError(
                "The model's chat template does not show the model what the user says, neither as text nor as a list "
                "of parts.",
                _ADVICE,
            )
        return text

    def _render(
        self,
        template: jinja2.Template,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
        bounds: Bounds,
    ) -> str:
        """Raises RequestError."""
        values: dict[str, Any] = {"documents": None, **self.named_tokens, **variables}
        values |= {"tools": tools, "add_generation_prompt": add_generation_prompt}
        stumbled: RequestError | None = None
        for shape in _shapes(messages):
            try:
                return _rendered(template, {**values, "messages": shape}, bounds)
            except _StumbledError as error:
                stumbled = stumbled or error
        assert stumbled is not None
        raise stumbled

    @property
    def knows_tools(self) -> bool:
        """Whether it shows the model the tools that there are."""
        if self._knows_tools is None:
            return "tools" in self.variables(with_tools=True)
        return self._knows_tools

    @cached_property
    def _knows_tools(self) -> bool | None:
        return self._observed(shows_tools, with_tools=True)

    def knows_developer(self, *, with_tools: bool = False) -> bool:
        """Whether it has a way of its own to show what somebody of the role developer says."""
        names = self._parsed(with_tools=with_tools).find_all(nodes.Const)
        named = any(const.value == "developer" for const in names)
        return named and self._form("developer", with_tools=with_tools) in ("text", "parts")

    def _in_form(self, messages: Sequence[Message], *, with_tools: bool) -> list[Message]:
        """Contents in the form in which the template shows them."""
        formed = []
        for message in messages:
            content, role = message.get("content"), message.get("role")
            form = self._form(role, with_tools=with_tools) if isinstance(content, str) and isinstance(role, str) else ""
            formed.append({**message, "content": as_parts(str(content))} if form == "parts" else message)
        return formed

    def _form(self, role: str, *, with_tools: bool) -> Form:
        if role not in _ROLES:
            return "text"  # whoever makes up a role has it as it is given; to look would cost renderings for each
        key = self._name(with_tools), role
        if key not in self._forms:
            self._forms[key] = self._observed(lambda show: content_form(show, role), with_tools=with_tools)
        return self._forms[key]

    @cached_property
    def _forms(self) -> dict[tuple[str, str], Form]:
        return {}

    def _observed(self, look: Callable[[Show], T], *, with_tools: bool) -> T:
        """What is seen of a few small renderings, which together take no more than one may."""
        template = self._compile(with_tools)
        with guard() as bounds:
            return look(lambda messages, tools: self._render(template, messages, tools, True, {}, bounds))

    def variables(self, *, with_tools: bool = False) -> frozenset[str]:
        """The names that the template reads and does not make itself, `messages` and the like among them."""
        return frozenset(meta.find_undeclared_variables(self._parsed(with_tools=with_tools)))

    def _parsed(self, *, with_tools: bool) -> nodes.Template:
        try:
            return _environment().parse(self.source(with_tools=with_tools))
        except (jinja2.TemplateError, RecursionError) as error:
            raise RequestError(f"The model's chat template is broken: {error}.", _ADVICE) from error

    def format(self, tokenizer: Tokenizer) -> ChatFormat:
        """How answers are written."""
        added = (token.content for token in tokenizer.backend.get_added_tokens_decoder().values())
        return ChatFormat.of(self.words(with_tools=True), frozenset(added))

    def words(self, *, with_tools: bool = False) -> str:
        """The template without its comments: a mark that one of these mentions is not written by it."""
        source = self.source(with_tools=with_tools)
        try:
            return "".join(text for _, kind, text in _environment().lex(source) if not kind.startswith("comment"))
        except jinja2.TemplateError:
            return source

    def source(self, *, with_tools: bool = False) -> str:
        """The template that `render` takes; empty when it would refuse."""
        return self.sources.get(self._name(with_tools), "")

    def _name(self, with_tools: bool) -> str:
        return "tool_use" if with_tools and "tool_use" in self.sources else "default"

    def _compile(self, with_tools: bool) -> jinja2.Template:
        name = self._name(with_tools)
        if name not in self.sources:
            raise RequestError(
                f"The model has several chat templates ({', '.join(sorted(self.sources))}) and no default one.",
                "Send the prompt without the chat template.",
            )
        return self._compiled(name)

    def _compiled(self, name: str) -> jinja2.Template:
        if name not in self._templates:
            try:
                self._templates[name] = _environment().from_string(self.sources[name])
            except (jinja2.TemplateError, RecursionError) as error:
                raise RequestError(f"The model's chat template is broken: {error}.", _ADVICE) from error
        return self._templates[name]

    @cached_property
    def _templates(self) -> dict[str, jinja2.Template]:
        return {}


_ADVICE = "Send the prompt without the chat template, or get the model's files again."


class _StumbledError(RequestError):
    """A template could not handle messages of this shape."""


def _drops_a_question(messages: Sequence[Message], text: str) -> bool:
    said = (message.get("content") for message in messages if message.get("role") == "user")
    return any(isinstance(content, str) and content.strip() not in text for content in said)


def _rendered(template: jinja2.Template, values: Mapping[str, Any], bounds: Bounds) -> str:
    """Raises RequestError."""
    plain = {name: _plain(value) for name, value in values.items()}
    try:
        return bounds.collect(template.generate(plain))
    except jinja2.TemplateError as error:
        sentence = (error.message or "").strip() or type(error).__name__
        kind = _StumbledError if isinstance(error, jinja2.UndefinedError) else RequestError
        raise kind(
            f"The model's chat template refused the messages: {sentence}{'' if sentence[-1] in '.!?' else '.'}",
            "Change the messages, or send the prompt without the chat template.",
        ) from error
    except RecursionError as error:
        raise RequestError("The model's chat template calls itself without end.", _ADVICE) from error
    except Exception as error:  # a template can make any operation fail on messages of another shape
        raise _StumbledError(
            f"The model's chat template cannot render these messages: {type(error).__name__}: {error}.", _ADVICE
        ) from error


def _named_sources(value: Any) -> dict[str, str]:
    """`chat_template` in a JSON file: one template, or a list of named ones."""
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, list):
        return {
            entry["name"]: entry["template"]
            for entry in value
            if isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)
        }
    return {}


# --- what a template sees ---


def _shapes(messages: Sequence[Message]) -> Iterator[list[dict[str, Any]]]:
    """The conversation as transformers shows it, then as templates want it that stumble over that.

    Some were written for the OpenAI API's own shape, where a message with calls has null as its content, and the
    arguments are text (DeepSeek V3's for one).
    """
    usual = [_normalise(message) for message in messages]
    yield usual
    if any(message.get("tool_calls") for message in usual):
        for content in (None, ""):
            filled = [{"content": content, **message} for message in usual]
            yield filled
            yield [_with_text_arguments(message) for message in filled]


def _with_text_arguments(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_with_text_argument(call) for call in calls]}


def _with_text_argument(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or isinstance(function.get("arguments"), str):
        return call
    return {**call, "function": {**function, "arguments": _to_json(function.get("arguments"))}}


def _normalise(message: Message) -> dict[str, Any]:
    """As transformers does: without keys that hold None, and with reasoning under the names templates read."""
    present = {key: value for key, value in message.items() if value is not None}
    reasoning = next((present[name] for name in _REASONING_FIELDS if name in present), None)
    return present if reasoning is None else {"thinking": reasoning, **present, "reasoning_content": reasoning}


def _plain(value: Any) -> Any:
    """JSON's types only, rebuilt: other objects have methods that the sandbox does not know to be dangerous."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    return f"<{type(value).__name__}>"


# --- the environment ---


class _GenerationBlocks(ext.Extension):
    """`{% generation %} … {% endgeneration %}` marks what the assistant said, for training; here it is just text."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: parser.Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Dict:
    """`dict(…)` without the class itself, whose attributes lead out of the sandbox."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _Namespace(utils.Namespace):
    """`namespace(…)` that takes no underscored names."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that `namespace(self=1)` works
        self, rest = args[0], args[1:]
        values = dict(*rest, **kwargs)
        for name in values:
            _check_attribute(name)
        utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace takes no attribute that begins with an underscore: {name}")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own filter escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


_GLOBALS: dict[str, Callable[..., Any]] = {
    "raise_exception": _raise_exception,
    "strftime_now": _strftime_now,
    "dict": _Dict(),
    "namespace": _Namespace,
}


def _environment() -> sandbox.ImmutableSandboxedEnvironment:
    environment = GuardedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(_GLOBALS)
    return environment
