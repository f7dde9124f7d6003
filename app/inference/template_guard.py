"""Bounds for an untrusted jinja2 template: how many steps, how long, how much text.

jinja2's sandbox keeps a template from reaching Python; it does not keep it from running for ever or from filling the
memory. Here every turn of a loop, every call and every string operation that can multiply its input counts, and the
counting raises `TemplateError` at the bound. Loops are counted through a call that is put into the syntax tree.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes, runtime, sandbox

MAX_STEPS = 500_000
MAX_SECONDS = 5.0
MAX_CHARACTERS = 16_000_000
"""Of the text, and of any one value that is made on the way: several times the longest context there is."""
MAX_NUMBER = 2**63
"""Of the result of a power, whose digits would otherwise fill the memory."""


class Bounds:
    """What one rendering has used up."""

    def __init__(self) -> None:
        self._steps = 0
        self._deadline = time.monotonic() + MAX_SECONDS

    def step(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise jinja2.TemplateError(f"it takes more than {MAX_STEPS:,} steps.")
        if self._steps % 64 == 0 and time.monotonic() > self._deadline:
            raise jinja2.TemplateError(f"it takes more than {MAX_SECONDS:.0f} seconds.")

    def collect(self, pieces: Iterable[str]) -> str:
        """Join what a template generates."""
        texts: list[str] = []
        total = 0
        for piece in pieces:
            self.step()
            total += len(piece)
            check_size(total)
            texts.append(piece)
        return "".join(texts)


_bounds: ContextVar[Bounds | None] = ContextVar("bounds of the rendering under way", default=None)


@contextmanager
def guard() -> Iterator[Bounds]:
    """Bound the rendering inside the block."""
    bounds = Bounds()
    token = _bounds.set(bounds)
    try:
        yield bounds
    finally:
        _bounds.reset(token)


def check_size(characters: int) -> None:
    if characters > MAX_CHARACTERS:
        raise jinja2.TemplateError(f"it makes more than {MAX_CHARACTERS:,} characters.")


def _step() -> str:
    if (bounds := _bounds.get()) is not None:
        bounds.step()
    return ""


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple) else 0


def _concat(*values: Any) -> str:
    """`a ~ b`, which the sandbox cannot intercept by itself."""
    texts = [str(value) for value in values]
    check_size(sum(map(len, texts)))
    return "".join(texts)


class GuardedEnvironment(sandbox.ImmutableSandboxedEnvironment):
    """The sandbox, with loops, calls, filters and growing operations counted and bounded."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shardboard_step = _step
        self.shardboard_concat = _concat
        self.filters = {name: _bounded_filter(name, function) for name, function in self.filters.items()}
        del self.globals["lipsum"]  # text of any length, of no use to a chat

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        _count_steps(template)
        template.set_environment(self)
        return template

    def call_binop(self, context: runtime.Context, operator: str, left: Any, right: Any) -> Any:
        _step()
        if operator == "+":
            check_size(_size(left) + _size(right))
        elif operator == "*":
            for value, count in ((left, right), (right, left)):
                if isinstance(count, int):
                    check_size(_size(value) * max(count, 0))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * max(right, 0) > MAX_NUMBER.bit_length():
                raise jinja2.TemplateError(f"{left} to the power of {right} is too large.")
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
            _check_numbers(right if isinstance(right, tuple) else (right,))
        return super().call_binop(context, operator, left, right)

    def call(self, context: runtime.Context, function: Any, *args: Any, **kwargs: Any) -> Any:
        _step()
        _check_numbers((*args, *kwargs.values()))
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            if function.__name__ == "replace":
                _check_replace(owner, args)
            elif function.__name__ == "join":
                args = _check_join(owner, args)
        return super().call(context, function, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format(str(value.__self__))
        return wrapped


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)  # keeps jinja2's mark that the filter wants the context as its first argument
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _step()
        _check_numbers((*args, *kwargs.values()))
        context = args[:1] if hasattr(function, "jinja_pass_arg") else ()
        values = args[len(context) :]
        if name == "format" and values:
            _check_format(str(values[0]))
        elif name == "replace" and values:
            _check_replace(str(values[0]), values[1:])
        elif name == "indent" and values:
            width = kwargs.get("width", values[1] if len(values) > 1 else 4)
            check_size((width if isinstance(width, int) else _size(width)) * (str(values[0]).count("\n") + 1))
        elif name == "join" and values:
            separator = kwargs.get("d", values[1] if len(values) > 1 else "")
            values = (*_check_join(str(separator), values[:1]), *values[1:])
        return function(*context, *values, **kwargs)

    return bounded


def _check_numbers(values: Iterable[Any]) -> None:
    """Widths and counts."""
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_CHARACTERS:
            raise jinja2.TemplateError(f"it uses the number {value}, which is too large.")


def _check_replace(text: str, args: tuple[Any, ...]) -> None:
    if len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
        check_size(len(text) + text.count(args[0]) * len(args[1]))


def _check_join(separator: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Takes what is joined out of its iterator, to count it."""
    if not args:
        return args
    items = list(args[0])
    check_size(len(separator) * len(items) + sum(map(_size, items)))
    return (items, *args[1:])


def _check_format(text: str) -> None:
    """A width such as `%999999999d` makes text of that length."""
    digits = 0
    for character in text:
        digits = digits + 1 if character.isdigit() else 0
        if digits > 6:
            raise jinja2.TemplateError("it formats text with too large a width.")


def _count_steps(template: nodes.Template) -> None:
    for loop in template.find_all(nodes.For):
        loop.body.insert(0, nodes.ExprStmt(_call("shardboard_step", []), lineno=loop.lineno))
    _replace_concats(template)


def _replace_concats(node: nodes.Node) -> None:
    for name, value in node.iter_fields():
        if isinstance(value, list):
            setattr(node, name, [_replaced(item) if isinstance(item, nodes.Node) else item for item in value])
        elif isinstance(value, nodes.Node):
            setattr(node, name, _replaced(value))


def _replaced(node: nodes.Node) -> nodes.Node:
    _replace_concats(node)
    return _call("shardboard_concat", node.nodes) if isinstance(node, nodes.Concat) else node


def _call(name: str, arguments: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None)
