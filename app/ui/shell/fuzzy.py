"""How well what was typed fits a text, so that the likeliest command stands first."""

from __future__ import annotations


def fit(query: str, text: str) -> float | None:
    """The higher the better; None when it does not fit. Every word of the query must be found.

    A word at the beginning of the text beats one at the beginning of a word, that beats one inside a word,
    and letters that are merely there in order come last. Among equals the shorter text wins.
    """
    lowered = text.lower()
    total = 0.0
    for word in query.lower().split():
        value = _word(word, lowered)
        if value is None:
            return None
        total += value
    return total - len(text) / 1000


def _word(word: str, text: str) -> float | None:
    if text.startswith(word):
        return 4.0
    if f" {word}" in text:
        return 3.0
    if word in text:
        return 2.0
    return _scattered(word, text)


def _scattered(word: str, text: str) -> float | None:
    """Letters in order with gaps; letters that begin a word count more."""
    at, begun = -1, 0
    for letter in word:
        at = text.find(letter, at + 1)
        if at < 0:
            return None
        begun += at == 0 or not text[at - 1].isalnum()
    # Letters strewn over a long text would let nearly everything through.
    return begun / len(word) if begun * 2 >= len(word) else None
