"""`generate`: one prompt, its answer as it comes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from msgspec import UNSET, UnsetType
from rich.console import Console
from rich.text import Text

from app.cli.options import Json, read_ids
from app.cli.output import note, print_json, printable, stderr
from app.cli.session import Session, open_controller, origin
from app.errors import BadInput, Cancelled, RequestError
from app.figures import duration, token_rate
from app.inference.answer_parts import AnswerPart
from app.inference.chat_format import AnswerReader, divided
from app.inference.constraint import Constraint, grammar_constraint
from app.inference.events import (
    Continued,
    Finished,
    Interrupted,
    Preparing,
    PromptProgress,
    RequestEvent,
    Started,
    TextDelta,
)
from app.inference.parameters import DEFAULT_MAX_TOKENS, GenerationParameters
from app.inference.prompt import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from app.registry import Registry, RequestRecord, RequestStatus
from app.runs.infinities import without_infinities
from app.runs.reader import RunReader
from app.runs.trace import RequestTrace, TokenLogprob

LONG_PROMPT = 256
"""From so many tokens on, it is shown how far the prompt is."""

T = TypeVar("T")


def register(app: typer.Typer) -> None:
    app.command()(generate)


def generate(
    model: Annotated[str, typer.Argument(help="A name in the library.")],
    prompt: Annotated[str | None, typer.Argument(help="The prompt; - reads it from stdin.")] = None,
    chat: Annotated[
        bool, typer.Option("--chat/--raw", help="With the model's chat template, or the text as it is.")
    ] = True,
    system: Annotated[str | None, typer.Option(help="A system message before the prompt.")] = None,
    token_ids: Annotated[str | None, typer.Option(help="The prompt as token ids instead: 1,2,…")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 always takes the likeliest token. [default: as the model has it, else 0]")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Only the K likeliest tokens; 0: all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Only the likeliest tokens that make up this share.")] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Only tokens at least this share as likely as the likeliest.")
    ] = None,
    typical_p: Annotated[
        float | None, typer.Option(help="Only the least surprising tokens that make up this share.")
    ] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1: less of what was there before.")] = None,
    no_repeat_ngram_size: Annotated[
        int | None, typer.Option(help="No sequence of N tokens comes twice; 0: any may.")
    ] = None,
    presence_penalty: Annotated[float, typer.Option(help="Less of what the answer has had.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="The less, the more often the answer has had it.")] = 0.0,
    logit_bias: Annotated[list[str] | None, typer.Option(help="TOKEN=BIAS; may be repeated.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable. [default: random, recorded]")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
    stop_token_id: Annotated[list[int] | None, typer.Option(help="End at this token; may be repeated.")] = None,
    include_stop: Annotated[
        bool, typer.Option("--include-stop", help="What ends the answer belongs to its text.")
    ] = False,
    special_tokens: Annotated[bool, typer.Option("--special-tokens", help="Show special tokens in the text.")] = False,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help=f"Longest answer; 0: as long as the context. [default: as the model has it, else {DEFAULT_MAX_TOKENS}]"
        ),
    ] = None,
    min_tokens: Annotated[int | None, typer.Option(help="Shortest answer.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after the end of the text.")] = False,
    logprobs: Annotated[
        int | None, typer.Option(help="Log probabilities: the token's (0), and the N likeliest. With --json.")
    ] = None,
    prompt_logprobs: Annotated[int | None, typer.Option(help="The same for the prompt's tokens.")] = None,
    json_object: Annotated[bool, typer.Option("--json-object", help="The answer is a JSON object.")] = False,
    json_schema: Annotated[
        str | None, typer.Option(metavar="FILE|TEXT", help="The answer is JSON that matches this schema.")
    ] = None,
    regex: Annotated[str | None, typer.Option(help="The answer matches this regular expression, as a whole.")] = None,
    grammar: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|TEXT", help="The answer matches this grammar (Lark, as llguidance has it, or GBNF)."
        ),
    ] = None,
    chat_template_kwargs: Annotated[
        str | None,
        typer.Option(metavar="JSON", help='What the chat template gets besides: {"enable_thinking": false}.'),
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer a prompt. The text streams to stdout; Ctrl-C cancels and keeps what has come.

    What the model thinks before it answers goes to stderr, dimmed on a terminal.
    """
    constraint = _read_constraint(json_object, json_schema, regex, grammar)
    parameters = GenerationParameters(
        temperature=_or_unset(temperature),
        top_k=_or_unset(top_k),
        top_p=_or_unset(top_p),
        min_p=_or_unset(min_p),
        typical_p=_or_unset(typical_p),
        repetition_penalty=_or_unset(repetition_penalty),
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        no_repeat_ngram_size=_or_unset(no_repeat_ngram_size),
        logit_bias=_read_biases(logit_bias or []),
        seed=seed,
        stop=tuple(stop) if stop else UNSET,
        stop_token_ids=tuple(stop_token_id or ()),
        include_stop_str_in_output=include_stop,
        skip_special_tokens=not special_tokens,
        max_tokens=None if max_tokens == 0 else _or_unset(max_tokens),
        min_tokens=_or_unset(min_tokens),
        ignore_eos=ignore_eos,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        constraint=constraint,
        chat_template_kwargs=_read_variables(chat_template_kwargs),
    )
    given = _read_prompt(prompt, chat, system, token_ids)
    with open_controller() as session:
        show_answer(session, model, given, parameters, as_json=as_json)


def _or_unset(value: T | None) -> T | UnsetType:
    """An option that was not given is as the model has it."""
    return UNSET if value is None else value


def show_answer(
    session: Session, model: str, prompt: Prompt, parameters: GenerationParameters, *, as_json: bool
) -> RequestRecord:
    """Run a request, stream its text, end with a line of figures; with `as_json` only print the record.

    Raises:
        Cancelled: by Ctrl-C; the text so far was shown and is in the registry.
        RequestError: it failed after it had begun.
    """
    events = session.events(session.controller.generate(model, prompt, parameters, origin=origin()))
    record = _show_record(session, events) if as_json else _show_text(events)
    if record.status is RequestStatus.CANCELLED:
        raise Cancelled(f"Request {record.id} was cancelled after {record.completion_tokens} tokens.")
    if record.status is RequestStatus.FAILED:
        raise RequestError(record.error or f"Request {record.id} failed.", f"See: request show {record.id}")
    return record


def record_json(record: RequestRecord, registry: Registry | None = None) -> dict[str, Any]:
    """A request for programs: all that the registry keeps, and its result once more as `text`.

    Args:
        registry: where the log probabilities are, for a request that asked for some: they come along then.
    """
    fields: dict[str, Any] = msgspec.to_builtins(record)
    fields["text"] = record.result
    if registry is not None:
        trace = without_infinities(RunReader(registry).request(record.id)).trace
        for name in ("logprobs", "prompt_logprobs"):
            if record.parameters.get(name) is not None and isinstance(trace, RequestTrace):
                fields[name] = [_logprob_json(each) for each in getattr(trace, name)]
    return fields


def _logprob_json(of: TokenLogprob | None) -> dict[str, Any] | None:
    """Of one token; None for the prompt's first, of which nothing can be said."""
    if of is None:
        return None
    top = [{"token": token, "logprob": logprob} for token, logprob in of.top]
    return {"token": of.token, "logprob": of.logprob, "top": top}


def _show_record(session: Session, events: Iterator[RequestEvent]) -> RequestRecord:
    record = _last(events)
    print_json(record_json(record, session.registry))
    return record


def _show_text(events: Iterator[RequestEvent]) -> RequestRecord:
    began = time.monotonic()
    first = last = 0.0
    shown = _Answer()
    with _Waiting() as waiting:
        for event in events:
            match event:
                case Preparing(what):
                    waiting.show(what)
                case PromptProgress(done, total) if total >= LONG_PROMPT and not first:
                    waiting.show(f"Reading the prompt: {done} of {total} tokens")
                case Started(format=format) if format is not None:
                    shown.reader = format.reader()
                case Interrupted(what):
                    waiting.show(what)
                case Continued(what):
                    waiting.end()
                    note(what)
                case TextDelta(text=text) if text:
                    waiting.end()
                    last = time.monotonic()
                    first = first or last
                    shown.feed(text)
                case Finished(record):
                    waiting.end()
                    shown.finish()
                    note(_figures(record, began, first, last))
                    return record
    raise RequestError("The request ended without a result.", "See: request list")


class _Answer:
    """The answer on stdout as it comes, what was thought before it on stderr; each ends with its line."""

    def __init__(self) -> None:
        self.reader: AnswerReader | None = None
        """Tells thinking from answer; None where nothing is known of how the answer is written."""
        self._thoughts = stderr()
        self._thought = self._said = ""
        """The last character of either, until its line is ended."""

    def feed(self, text: str) -> None:
        self._show([text] if self.reader is None else self.reader.feed(text))

    def finish(self) -> None:
        self._show([] if self.reader is None else self.reader.finish())
        self._end_thought()
        if self._said not in ("", "\n"):
            self._say("\n")

    def _show(self, parts: Sequence[AnswerPart]) -> None:
        thinking, text = divided(parts)
        if thinking := printable(thinking):
            self._thought = thinking[-1]
            self._thoughts.print(Text(thinking, style="dim"), end="", soft_wrap=True)
        if text := printable(text):
            self._end_thought()
            self._say(text)

    def _end_thought(self) -> None:
        if self._thought not in ("", "\n"):
            self._thoughts.print()
        self._thought = ""

    def _say(self, text: str) -> None:
        self._said = text[-1]
        sys.stdout.write(text)
        sys.stdout.flush()


class _Waiting:
    """A line on the terminal about what is waited for, until the first text comes."""

    def __init__(self) -> None:
        self._status = Console(stderr=True).status("")
        self._shown = False

    def show(self, text: str) -> None:
        self._status.update(Text(printable(text)))
        if not self._shown:
            self._shown = True
            self._status.start()

    def end(self) -> None:
        if self._shown:
            self._shown = False
            self._status.stop()

    def __enter__(self) -> _Waiting:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def _last(events: Iterator[RequestEvent]) -> RequestRecord:
    for event in events:
        if isinstance(event, Finished):
            return event.record
    raise RequestError("The request ended without a result.", "See: request list")


def _figures(record: RequestRecord, began: float, first: float, last: float) -> str:
    tokens = record.completion_tokens
    figures = [f"{tokens} tokens"]
    if tokens > 1 and last > first:
        figures.append(token_rate((tokens - 1) / (last - first)))
    if first:
        figures.append(f"first after {duration(first - began)}")
    if record.finish_reason:
        figures.append(record.finish_reason)
    return " · ".join([*figures, f"request {record.id}"])


def _read_prompt(prompt: str | None, chat: bool, system: str | None, token_ids: str | None) -> Prompt:
    if (prompt is None) == (token_ids is None):
        raise BadInput("There must be a prompt.", "Give it as text or as --token-ids, not both.")
    if token_ids is not None:
        return TokenPrompt(tuple(read_ids(token_ids, "--token-ids") or ()))
    text = sys.stdin.read() if prompt == "-" else prompt or ""
    if not text:
        raise BadInput("The prompt is empty.", "Give some text.")
    if not chat:
        if system is not None:
            raise BadInput("--system needs the chat template.", "Leave out --raw or --system.")
        return TextPrompt(text)
    asked = ChatPrompt.of(text)
    return asked if system is None else ChatPrompt(({"role": "system", "content": system}, *asked.messages))


def _read_constraint(
    json_object: bool, json_schema: str | None, regex: str | None, grammar: str | None
) -> Constraint | None:
    if sum((json_object, json_schema is not None, regex is not None, grammar is not None)) > 1:
        raise BadInput("The answer can have one form only.", "Give one of the options that say what it has to match.")
    if json_object:
        return Constraint("json_object")
    if json_schema is not None:
        return Constraint("json_schema", _text_of(json_schema, "--json-schema"))
    if regex is not None:
        return Constraint("regex", regex)
    return None if grammar is None else grammar_constraint(_text_of(grammar, "--grammar"))


def _text_of(given: str, option: str) -> str:
    """The text that was given, or that of the file that it names: no schema and no grammar reads as a path."""
    if any(character in given for character in "{}:\n"):
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise BadInput(f"{option} names the file '{given}', which cannot be read: {reason}.") from error


def _read_variables(text: str | None) -> dict[str, Any]:
    try:
        values = msgspec.json.decode(text or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(
            f"--chat-template-kwargs is no JSON object: {error}.", """Write it as '{"enable_thinking": false}'."""
        ) from error
    return values


def _read_biases(texts: list[str]) -> dict[int, float]:
    biases: dict[int, float] = {}
    for text in texts:
        token, _, bias = text.partition("=")
        try:
            biases[int(token)] = float(bias)
        except ValueError:
            raise BadInput(f"--logit-bias is '{text}'; it takes TOKEN=BIAS, such as 42=-5.") from None
    return biases
