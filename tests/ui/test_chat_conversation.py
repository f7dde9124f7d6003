"""Conversations as data: what the model gets, what is kept, and what a damaged file does."""

from __future__ import annotations

import msgspec
import pytest

from app.errors import BadInput, RequestError
from app.inference.prompt import ChatPrompt, TextPrompt
from app.ui.chat.conversation import (
    UNTITLED,
    Conversation,
    Figures,
    Options,
    Outcome,
    Problem,
    from_json,
    summary_from_json,
    title_of,
    to_json,
)
from app.ui.chat.segments import CODE_LINES, MOST_CHARACTERS, Code, Prose, code_blocks, segments


def answered(conversation: Conversation, question: str, answer: str, outcome: Outcome = Outcome.COMPLETE) -> None:
    message = conversation.ask(question)
    message.text, message.outcome = answer, outcome


def test_the_model_gets_the_system_prompt_and_what_was_said_so_far() -> None:
    conversation = Conversation(model="m", options=Options(system="Be brief."))
    answered(conversation, "One?", "Two.")
    conversation.ask("And now?")
    assert conversation.prompt() == ChatPrompt(
        (
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": "And now?"},
        )
    )


def test_a_question_that_got_no_word_of_an_answer_is_left_out_and_a_broken_off_answer_stays() -> None:
    conversation = Conversation(model="m")
    answered(conversation, "Lost?", "", Outcome.FAILED)
    answered(conversation, "Half?", "Only ha", Outcome.FAILED)
    conversation.ask("Again?")
    prompt = conversation.prompt()
    assert isinstance(prompt, ChatPrompt)
    assert [entry["content"] for entry in prompt.messages] == ["Half?", "Only ha", "Again?"]


def test_a_completion_continues_its_text_where_it_ended() -> None:
    conversation = Conversation(model="m", options=Options(raw=True))
    answer = conversation.ask("Once upon")
    assert conversation.prompt() == TextPrompt("Once upon")
    answer.text = " a time"
    assert conversation.prompt() == TextPrompt("Once upon a time")


def test_the_first_question_names_the_conversation_and_a_later_one_does_not() -> None:
    conversation = Conversation()
    assert conversation.title == UNTITLED
    answered(conversation, "What is\nthe  capital of France?", "Paris.")
    conversation.ask("And of Spain?")
    assert conversation.title == "What is the capital of France?"
    assert title_of("word " * 40).endswith("…") and len(title_of("word " * 40)) <= 48


def test_taking_the_last_question_back_leaves_what_was_before_it() -> None:
    conversation = Conversation()
    answered(conversation, "One?", "1")
    answered(conversation, "Two?", "2")
    assert conversation.take_back() == "Two?"
    assert [message.text for message in conversation.messages] == ["One?", "1"]


def test_a_conversation_comes_back_from_its_file_as_it_was() -> None:
    conversation = Conversation(model="m", options=Options(stop=("\n", "END"), seed=7, temperature=0.5))
    answered(conversation, "Ünï\u2028code?", "`ok` \0 <b>")
    message = conversation.messages[-1]
    message.figures = Figures(tokens=3, tokens_per_second=1.5)
    message.problem = Problem(message="why", advice="what to do")
    assert from_json(to_json(conversation)) == conversation
    summary = summary_from_json(to_json(conversation))
    assert (summary.id, summary.title) == (conversation.id, conversation.title)


def test_an_answer_that_was_being_written_is_marked_as_interrupted() -> None:
    conversation = Conversation()
    conversation.ask("Long?").text = "So fa"
    read = from_json(to_json(conversation))
    assert read.messages[-1].outcome is Outcome.INTERRUPTED and read.messages[-1].text == "So fa"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": 5}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_file_is_an_error_and_not_a_crash(content: bytes) -> None:
    with pytest.raises(BadInput):
        from_json(content)
    with pytest.raises(BadInput):
        summary_from_json(content)


def test_a_file_of_a_newer_program_is_refused() -> None:
    newer = msgspec.json.decode(to_json(Conversation())) | {"version": 99}
    with pytest.raises(BadInput, match="newer"):
        from_json(msgspec.json.encode(newer))


def test_parameters_are_checked_as_a_request_checks_them() -> None:
    with pytest.raises(RequestError, match="top_p"):
        Options(top_p=3.0).parameters()
    options = Options(temperature=1.0)
    assert options.parameters().seed is not None and options.seed is None, "each answer gets a seed of its own"


def test_markdown_is_cut_into_prose_and_code() -> None:
    text = "Before\n\n```python\nx = 1\n```\nBetween\n~~~\nraw ``` inside\n~~~\nAfter"
    pieces = list(segments(text))
    assert pieces == [
        Prose("Before\n"), Code("x = 1", "python", 0), Prose("Between"), Code("raw ``` inside", "", 1), Prose("After"),
    ]  # fmt: skip
    assert code_blocks(text) == ["x = 1", "raw ``` inside"]


def test_a_fence_that_is_never_closed_holds_the_rest_and_one_in_a_list_loses_its_indent() -> None:
    assert list(segments("```\na\n  b")) == [Code("a\n  b", "", 0)]
    assert code_blocks("1. Do\n   ```sh\n   ls\n     -l\n   ```\n2. Done") == ["ls\n  -l"]


def test_long_texts_come_in_pieces_and_lose_nothing() -> None:
    code = "\n".join(f"line {number}" for number in range(3 * CODE_LINES + 5))
    assert code_blocks(f"```\n{code}\n```") == [code]
    prose = "\n\n".join("word " * 100 for _ in range(60))
    pieces = [piece for piece in segments(prose) if isinstance(piece, Prose)]
    assert len(pieces) > 5 and all(len(piece.text) <= MOST_CHARACTERS + 1000 for piece in pieces)
    assert "\n".join(piece.text for piece in pieces) == prose
