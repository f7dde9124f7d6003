"""Grammars that answers have to follow: llguidance says which tokens may come next.

llguidance rather than xgrammar: it needs neither torch nor a GPU compiler, its wheels (stable ABI) are there for Linux,
macOS and Windows, it reads JSON schemas, regular expressions and Lark, and a mask costs some microseconds.

A grammar is made known before a sequence needs it (`Constrain`) and named by its hash from then on, so that one that
cannot be used is refused there, and steps stay small. Whatever goes wrong later ends that one answer, never a step.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict

import llguidance
import numpy as np
import torch

from worker_agent.wire.errors import BadConstraint, NoTokenizer
from worker_agent.wire.messages import Constraint

log = logging.getLogger(__name__)

KEPT = 64
"""So many grammars are kept ready; one that was dropped is made again from its text, in some milliseconds."""
KEPT_CHARACTERS = 32 * 1024 * 1024
"""So much of their texts is kept: of grammars whose sequences may still be waiting for their turn."""

_Reader = tuple[str, tuple[int, ...]]
"""Deployment and end-of-text tokens: what a tokenizer is read for."""
_Key = tuple[str, tuple[int, ...], str]
"""The same, and a grammar's name."""


class Follower:
    """One sequence on its way through a grammar.

    Args:
        matcher: None for a grammar that is lost.
        lost: why, then.
    """

    def __init__(self, matcher: llguidance.LLMatcher | None, lost: str = "") -> None:
        self._matcher, self._lost = matcher, lost

    def took(self, token: int) -> None:
        """This token was chosen."""
        if self._matcher is not None:
            self._matcher.consume_token(token)

    @property
    def is_complete(self) -> bool:
        """Nothing may follow."""
        return self._matcher is not None and bool(self._matcher.is_stopped())

    @property
    def failure(self) -> str:
        """Why it cannot go on (a limit of the parser, above all); empty while it can."""
        if self._matcher is None:
            return self._lost
        return str(self._matcher.get_error()) if self._matcher.is_error() else ""

    def narrow(self, scores: torch.Tensor) -> torch.Tensor:
        """The scores [vocabulary] with minus infinity for every token that may not come next."""
        if self._matcher is None:
            return scores
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        allowed = torch.from_numpy(bits[: len(scores)].astype(bool))
        if len(allowed) < len(scores):  # a vocabulary that was padded for the sake of the hardware
            allowed = torch.nn.functional.pad(allowed, (0, len(scores) - len(allowed)))
        return scores.masked_fill(~allowed.to(scores.device), -torch.inf)


class Grammars:
    """The tokenizers and grammars of an agent's deployments. Any thread may ask; one at a time may `prepare`.

    The lock guards the tables alone: the compute thread never waits for a grammar of somebody else's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokenizers: dict[_Reader, llguidance.LLTokenizer] = {}
        self._texts: OrderedDict[_Key, Constraint] = OrderedDict()
        self._characters = 0
        self._matchers: OrderedDict[_Key, llguidance.LLMatcher] = OrderedDict()

    def prepare(self, deployment: str, constraint: Constraint, eos: tuple[int, ...], tokenizer: bytes | None) -> None:
        """Make a grammar ready. A deployment's first one takes as long as its tokenizer takes to be read.

        Args:
            eos: the tokens that may end the text; they belong to the tokenizer's grammar.
            tokenizer: tokenizer.json, when the controller knows that it is wanted.

        Raises:
            NoTokenizer: the deployment's is not known here yet; send it along.
            BadConstraint: the tokenizer or the grammar cannot be used; says why.
        """
        reader, key = (deployment, eos), (deployment, eos, constraint.name)
        with self._lock:
            known = self._tokenizers.get(reader)
            if known is not None and key in self._matchers:
                self._matchers.move_to_end(key)
                self._texts.move_to_end(key)
                return
        if known is None:
            if tokenizer is None:
                raise NoTokenizer(f"the tokenizer of deployment {deployment} is not known here")
            known = read_tokenizer(tokenizer, eos)
        matcher = _compile(known, constraint)
        with self._lock:
            self._tokenizers[reader] = known
            self._keep(key, constraint, matcher)

    def follower(self, deployment: str, name: str, eos: tuple[int, ...]) -> Follower:
        """A new way through the grammar of that name. Never raises: one that is gone is the Follower's failure."""
        key = (deployment, eos, name)
        with self._lock:
            if key in self._matchers:
                self._matchers.move_to_end(key)
                return Follower(self._matchers[key].deep_copy())
            constraint, tokenizer = self._texts.get(key), self._tokenizers.get((deployment, eos))
        if constraint is None or tokenizer is None:
            log.warning("a sequence of deployment %s needs grammar %s, which is not known here", deployment, name[:12])
            return Follower(None, "the grammar is not known here any more")
        try:
            matcher = _compile(tokenizer, constraint)
        except BadConstraint as error:
            return Follower(None, str(error))
        with self._lock:
            self._keep(key, constraint, matcher)
        return Follower(matcher.deep_copy())

    def forget(self, deployment: str) -> None:
        """The deployment is gone."""
        with self._lock:
            for reader in [reader for reader in self._tokenizers if reader[0] == deployment]:
                del self._tokenizers[reader]
            for key in [key for key in self._texts if key[0] == deployment]:
                self._characters -= len(self._texts.pop(key).text)
                self._matchers.pop(key, None)

    def _keep(self, key: _Key, constraint: Constraint, matcher: llguidance.LLMatcher) -> None:
        if key not in self._texts:
            self._characters += len(constraint.text)
        self._texts[key], self._matchers[key] = constraint, matcher
        self._texts.move_to_end(key)
        self._matchers.move_to_end(key)
        while len(self._matchers) > KEPT:
            self._matchers.popitem(last=False)
        while self._characters > KEPT_CHARACTERS:
            oldest, dropped = self._texts.popitem(last=False)
            self._characters -= len(dropped.text)
            self._matchers.pop(oldest, None)


def read_tokenizer(data: bytes, eos: tuple[int, ...]) -> llguidance.LLTokenizer:
    """Read a tokenizer.json. Raises BadConstraint when llguidance cannot.

    It holds the interpreter meanwhile, about 0.5 s for 150,000 tokens; the tables that make masks fast are built in a
    second go, so that other threads have a turn in between.
    """
    if not data.lstrip().startswith(b"{"):  # llguidance takes any other text for the name of a file
        raise BadConstraint("the tokenizer is no tokenizer.json")
    try:
        plain = llguidance.LLTokenizer(data.decode("utf-8"), eos_token=list(eos) or None, slices=[])
        return plain.with_slices(llguidance.LLTokenizer.general_slices())
    # what its Rust side cannot take ends in a panic sometimes, which is no Exception
    except BaseException as error:
        raise BadConstraint(f"llguidance cannot read this model's tokenizer: {error}") from error


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


def _compile(tokenizer: llguidance.LLTokenizer, constraint: Constraint) -> llguidance.LLMatcher:
    try:
        matcher = llguidance.LLMatcher(tokenizer, grammar_of(constraint), log_level=0)
    except ValueError as error:
        raise BadConstraint(str(error)) from error
    if matcher.is_error():
        raise BadConstraint(str(matcher.get_error()))
    return matcher
