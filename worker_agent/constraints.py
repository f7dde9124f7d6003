"""Grammars that answers have to follow: llguidance says which tokens may come next.

llguidance rather than xgrammar: it needs neither torch nor a GPU compiler, its wheels (stable ABI) are there for Linux,
macOS and Windows, it reads JSON schemas, regular expressions and Lark, and a mask costs some microseconds.

A grammar is made known before a sequence needs it (`Constrain`), so that one that cannot be used is refused there and
never breaks a step.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import llguidance
import numpy as np
import torch

from worker_agent.errors import BadConstraint, NoTokenizer
from worker_agent.messages import Constraint

KEPT = 64
"""So many grammars are kept for each deployment; one that was dropped is made again from its text."""


class Follower:
    """One sequence on its way through a grammar."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def took(self, token: int) -> None:
        """This token was chosen."""
        self._matcher.consume_token(token)

    @property
    def is_complete(self) -> bool:
        """Nothing may follow."""
        return bool(self._matcher.is_stopped())

    @property
    def failure(self) -> str:
        """Why it cannot go on (a limit of the parser, above all); empty while it can."""
        return str(self._matcher.get_error()) if self._matcher.is_error() else ""

    def narrow(self, scores: torch.Tensor) -> torch.Tensor:
        """The scores [vocabulary] with minus infinity for every token that may not come next."""
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        allowed = torch.from_numpy(bits[: len(scores)].astype(bool))
        if len(allowed) < len(scores):  # a vocabulary that was padded for the sake of the hardware
            allowed = torch.nn.functional.pad(allowed, (0, len(scores) - len(allowed)))
        return scores.masked_fill(~allowed.to(scores.device), -torch.inf)


class Grammars:
    """The tokenizers and grammars of an agent's deployments. Any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokenizers: dict[tuple[str, tuple[int, ...]], llguidance.LLTokenizer] = {}
        self._texts: dict[str, str] = {}
        self._matchers: dict[str, OrderedDict[tuple[Constraint, tuple[int, ...]], llguidance.LLMatcher]] = {}

    def prepare(self, deployment: str, constraint: Constraint, eos: tuple[int, ...], tokenizer: bytes | None) -> None:
        """Make a grammar ready. Takes some tenths of a second for a deployment's first one.

        Args:
            eos: the tokens that may end the text; they belong to the tokenizer's grammar.
            tokenizer: tokenizer.json, when the controller knows that it is wanted.

        Raises:
            NoTokenizer: the deployment's is not known here yet; send it along.
            BadConstraint: the tokenizer or the grammar cannot be used; says why.
        """
        if tokenizer is not None:
            try:
                text = tokenizer.decode("utf-8")
            except UnicodeDecodeError as error:
                raise BadConstraint(f"the tokenizer is no text: {error}") from error
            with self._lock:
                self._texts[deployment] = text
        self.follower(deployment, constraint, eos)

    def follower(self, deployment: str, constraint: Constraint, eos: tuple[int, ...]) -> Follower:
        """A new way through a grammar. Raises what `prepare` raises."""
        with self._lock:
            matchers = self._matchers.setdefault(deployment, OrderedDict())
            key = (constraint, eos)
            if key not in matchers:
                matchers[key] = self._compile(deployment, constraint, eos)
                while len(matchers) > KEPT:
                    matchers.popitem(last=False)
            matchers.move_to_end(key)
            return Follower(matchers[key].deep_copy())

    def forget(self, deployment: str) -> None:
        """The deployment is gone."""
        with self._lock:
            self._texts.pop(deployment, None)
            self._matchers.pop(deployment, None)
            for key in [key for key in self._tokenizers if key[0] == deployment]:
                del self._tokenizers[key]

    def _compile(self, deployment: str, constraint: Constraint, eos: tuple[int, ...]) -> llguidance.LLMatcher:
        tokenizer = self._tokenizer(deployment, eos)
        try:
            matcher = llguidance.LLMatcher(tokenizer, grammar_of(constraint), log_level=0)
        except ValueError as error:
            raise BadConstraint(str(error)) from error
        if matcher.is_error():
            raise BadConstraint(str(matcher.get_error()))
        return matcher

    def _tokenizer(self, deployment: str, eos: tuple[int, ...]) -> llguidance.LLTokenizer:
        text = self._texts.get(deployment)
        if text is None:
            raise NoTokenizer(f"the tokenizer of deployment {deployment} is not known here")
        key = (deployment, eos)
        if key not in self._tokenizers:
            try:
                self._tokenizers[key] = llguidance.LLTokenizer(text, eos_token=list(eos) or None)
            except (ValueError, RuntimeError) as error:
                raise BadConstraint(f"llguidance cannot read this model's tokenizer: {error}") from error
        return self._tokenizers[key]


def grammar_of(constraint: Constraint) -> str:
    """The constraint in llguidance's own form. Raises ValueError when its text cannot even be read."""
    match constraint.kind:
        case "json_object":
            return str(llguidance.LLMatcher.grammar_from_json_schema('{"type": "object"}'))
        case "json_schema":
            return str(llguidance.LLMatcher.grammar_from_json_schema(constraint.text))
        case "regex":
            return str(llguidance.LLMatcher.grammar_from_regex(constraint.text))
        case _:
            return str(llguidance.LLMatcher.grammar_from_lark(constraint.text))
