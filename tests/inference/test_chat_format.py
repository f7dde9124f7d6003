"""Answers divided into thinking, text and calls: the same however they are cut into tokens, and nothing is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.inference.answer_parts import AnswerPart, CallArguments, CallBegan, Reasoning
from app.inference.chat_format import ChatFormat
from app.inference.detokenizer import Detokenizer
from app.inference.text_stream import TextRules, TextStream
from app.inference.thinking import KNOWN_MARKS
from app.inference.tokenizer import Tokenizer
from app.inference.tool_calls import ToolDialect
from tests.inference import tiny_tokenizers

TOOLS: dict[str, Any] = {
    "weather": {
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "near": {"type": "boolean"},
            "share": {"type": ["number", "null"]},
            "tags": {"$ref": "#/$defs/Tags"},
            "unit": {"enum": ["C", "F"]},
            "any": {},
        },
        "$defs": {"Tags": {"type": "array", "items": {"type": "string"}}},
    },
    "clock": {},
}
THINK = ChatFormat.of("<think></think>")
QWEN = ChatFormat.of("<think> <tool_call><function=")
GLM = ChatFormat.of("<think> <tool_call> <arg_key>")
DEEPSEEK = ChatFormat.of("<think> <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>")
KIMI = ChatFormat.of("<|tool_calls_section_begin|><|tool_call_begin|>")
MISTRAL = ChatFormat.of("[TOOL_CALLS] [THINK]")
LLAMA = ChatFormat.of("<|python_tag|>")
PLAIN = ChatFormat.of("{{ tools }}")
HARMONY = ChatFormat.of("<|start|> <|channel|> <|message|>")

Read = tuple[str, str, list[tuple[str, str]]]


def read(format: ChatFormat, pieces: list[str], tools: dict[str, Any] | None = TOOLS, most: int | None = None) -> Read:
    """Thinking, text, and calls of an answer that comes in these pieces."""
    reader = format.reader(tools, most)
    parts: list[AnswerPart] = [part for piece in pieces for part in reader.feed(piece)]
    parts += reader.finish()
    thinking, text, calls = "", "", list[list[str]]()
    for part in parts:
        match part:
            case str():
                text += part
            case Reasoning(more):
                assert more
                thinking += more
            case CallBegan(index, name):
                assert index == len(calls)
                calls.append([name, ""])
            case CallArguments(index, more):
                assert index == len(calls) - 1
                calls[-1][1] += more
    return thinking, text, [(name, arguments) for name, arguments in calls]


def xml(name: str, *arguments: tuple[str, str]) -> str:
    inside = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments)
    return f"<tool_call>\n<function={name}>\n{inside}</function>\n</tool_call>"


def pairs(name: str, *arguments: tuple[str, str]) -> str:
    inside = "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n" for key, value in arguments)
    return f"<tool_call>{name}\n{inside}</tool_call>"


MARKED = "<｜tool▁call▁begin｜>{}<｜tool▁call▁end｜>"
EXAMPLES: dict[str, tuple[ChatFormat, str, str, str, list[tuple[str, str]]]] = {
    "qwen3-coder": (
        QWEN,
        "<think>\nhm\n</think>\n\nLet me see.\n\n"
        + xml("weather", ("city", "São <b> \"Paulo\"\n"), ("days", "3"), ("near", "True"), ("share", "None"))
        + "\n"
        + xml("clock")
        + "\n",
        "hm",
        "Let me see.",
        [("weather", '{"city": "São <b> \\"Paulo\\"\\n", "days": 3, "near": true, "share": null}'), ("clock", "{}")],
    ),
    "a forgotten mark": (QWEN, "<function=clock>\n</function>\n</tool_call>", "", "", [("clock", "{}")]),
    "seed": (
        ChatFormat.of("<seed:think> <seed:tool_call><function="),
        "<seed:think>so</seed:think><seed:tool_call>\n<function=weather>\n<parameter=city>Rome</parameter>\n"
        "</function>\n</seed:tool_call>",
        "so", "", [("weather", '{"city": "Rome"}')],
    ),
    "minimax": (
        ChatFormat.of("<minimax:tool_call>"),
        'Ok.<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Rome</parameter>\n</invoke>\n'
        '<invoke name="clock">\n</invoke>\n</minimax:tool_call>',
        "", "Ok.", [("weather", '{"city": "Rome"}'), ("clock", "{}")],
    ),
    "what ends a value may stand in it": (
        QWEN, xml("weather", ("city", "<a></parameter> b")), "", "", [("weather", '{"city": "<a></parameter> b"}')],
    ),
    "types of schemas": (
        QWEN,
        xml("weather", ("tags", "['a', \"b\"]"), ("unit", "C"), ("any", '{"x": 1}'), ("days", "2.0"), ("share", "1.5"),
            ("near", "maybe"), ("other", "5"), ("city", "5")),
        "", "",
        [("weather", '{"tags": ["a", "b"], "unit": "C", "any": {"x": 1}, "days": 2, "share": 1.5, "near": "maybe", '
                     '"other": 5, "city": "5"}')],
    ),
    "glm": (
        GLM,
        "\n<think></think>\nSure.\n" + pairs("weather", ("city", " Rome\n"), ("days", "-2")) + "\n" + pairs("clock"),
        "", "Sure.", [("weather", '{"city": " Rome\\n", "days": -2}'), ("clock", "{}")],
    ),
    "glm of today": (
        GLM,
        "<tool_call>weather<arg_key>city</arg_key><arg_value>Rome</arg_value></tool_call>", "", "",
        [("weather", '{"city": "Rome"}')],
    ),
    "deepseek-v3": (
        DEEPSEEK,
        "Hm.<｜tool▁calls▁begin｜>" + MARKED.format('function<｜tool▁sep｜>weather\n```json\n{"city": "x"}\n```') + "\n"
        + MARKED.format("function<｜tool▁sep｜>clock\n```json\n{}\n```") + "<｜tool▁calls▁end｜>",
        "", "Hm.", [("weather", '{"city": "x"}'), ("clock", "{}")],
    ),
    "deepseek-v3.1": (
        DEEPSEEK,
        "<think>so</think><｜tool▁calls▁begin｜>" + MARKED.format('weather<｜tool▁sep｜>{"city": "{"}')
        + MARKED.format("clock<｜tool▁sep｜>{}") + "<｜tool▁calls▁end｜>",
        "so", "", [("weather", '{"city": "{"}'), ("clock", "{}")],
    ),
    "kimi": (
        KIMI,
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
        '{"city": "x"}<|tool_call_end|><|tool_calls_section_end|>',
        "", "", [("weather", '{"city": "x"}')],
    ),
    "mistral": (
        MISTRAL,
        '[THINK]so[/THINK]Ok.[TOOL_CALLS]weather[CALL_ID]abcdefghi[ARGS]{"city": "x"}[TOOL_CALLS]clock[ARGS]{}',
        "so", "Ok.", [("weather", '{"city": "x"}'), ("clock", "{}")],
    ),
    "llama, as Python": (
        LLAMA,
        "[weather(city='It\\'s [x)', days=-3, tags=[\"a\", 'b'], any={'k': (1, None, true)}), clock()]",
        "", "",
        [("weather", '{"city": "It\'s [x)", "days": -3, "tags": ["a", "b"], "any": {"k": [1, null, true]}}'),
         ("clock", "{}")],
    ),
    "llama, marked": (LLAMA, 'So: <|python_tag|>weather(city="x")', "", "So:", [("weather", '{"city": "x"}')]),
    "harmony": (
        HARMONY,
        "<|channel|>analysis<|message|>We need.<|end|><|start|>assistant<|channel|>commentary<|message|>Let me.<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>Now.<|end|>"
        "<|start|>assistant to=functions.clock<|channel|>commentary <|constrain|>json<|message|><|end|>"
        '<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city":"x"}',
        "We need.\nNow.", "Let me.", [("clock", "{}"), ("weather", '{"city":"x"}')],
    ),
    "harmony, at once": (HARMONY, "No <|header|>.", "", "No <|header|>.", []),
    "cut in a text": (
        QWEN, '<tool_call>\n<function=weather>\n<parameter=city>\nPa"', "", "", [("weather", '{"city": "Pa\\"')],
    ),
    "cut behind an argument": (
        QWEN, "<tool_call>\n<function=weather>\n<parameter=days>\n3\n</parameter>\n</fu", "", "",
        [("weather", '{"days": 3}')],
    ),
    "cut in JSON": (DEEPSEEK, "<｜tool▁call▁begin｜>" + 'clock<｜tool▁sep｜>{"a": ', "", "", [("clock", '{"a": ')]),
}  # fmt: skip
NO_CALLS: list[tuple[ChatFormat, str]] = [
    (QWEN, "<tool_call>\n<function=weather>\nrainy\n</function>\n</tool_call>"),
    (QWEN, "write <function=name> and <parameter=key>"),
    (QWEN, "<function=unknown>\n</function>"),
    (GLM, "<tool_call>unknown\n</tool_call>"),
    (GLM, "<tool_call>a name with spaces</tool_call>"),
    (DEEPSEEK, "<｜tool▁calls▁begin｜>sorry, {no}<｜tool▁calls▁end｜>"),
    (DEEPSEEK, "<｜tool▁call▁begin｜>weather<｜tool▁sep｜>none<｜tool▁call▁end｜>"),
    (MISTRAL, "[TOOL_CALLS] are what I make"),
    (MISTRAL, "[TOOL_CALLS][1, 2]"),
    (LLAMA, '[weather("x")]'),
    (LLAMA, "[weather(city=here)]"),
    (LLAMA, "[weather(city='x', **more)]"),
    (LLAMA, "weather(city='x') would do it"),
    (LLAMA, "[weather(city="),
    (LLAMA, '<|python_tag|>brave_search.call(query="x")'),
    (PLAIN, "[unknown(city='x')]"),
    (THINK, "The mark <think> begins thinking, </think> ends it."),
    (THINK, "<thi"),
]


def cuts(text: str) -> st.SearchStrategy[list[str]]:
    """Ways of cutting a text into pieces."""
    places = st.lists(st.integers(0, len(text)), max_size=len(text)).map(sorted)
    return places.map(lambda found: [text[a:b] for a, b in zip([0, *found], [*found, len(text)], strict=True)])


@pytest.mark.parametrize("name", EXAMPLES)
@given(data=st.data())
def test_an_answer_is_divided_alike_however_it_is_cut(name: str, data: st.DataObject) -> None:
    format, answer, *expected = EXAMPLES[name]
    assert read(format, [answer]) == tuple(expected)
    assert read(format, list(answer)) == tuple(expected)
    assert read(format, data.draw(cuts(answer))) == tuple(expected)


@pytest.mark.parametrize(("format", "answer"), NO_CALLS)
def test_what_is_no_call_stays_text_to_the_last_character(format: ChatFormat, answer: str) -> None:
    for pieces in ([answer], list(answer)):
        assert read(format, pieces) == ("", answer, [])


PIECES = st.sampled_from([
    "<tool_call>", "</tool_call>", "<function=weather>", "<function=clock>", "</function>", "<parameter=city>",
    "</parameter>", "<arg_key>city</arg_key>", "<arg_value>", "</arg_value>", "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>", "[TOOL_CALLS]", "[ARGS]",
    "<|python_tag|>", "[", "]", "(", ")", "{", "}", '{"name": "clock", "arguments": {}}', "weather", "clock", "x", " ",
    "\n", "<think>", "</think>", "<|channel|>", "analysis", "final", "<|message|>", "<|end|>", "<|start|>", "assistant",
    " to=functions.clock", '"', ",", "=", "é",
])  # fmt: skip


@pytest.mark.parametrize("format", [QWEN, GLM, DEEPSEEK, KIMI, MISTRAL, LLAMA, PLAIN, HARMONY])
@given(tokens=st.lists(PIECES, max_size=14), data=st.data(), is_open=st.booleans())
def test_any_answer_is_divided_alike_however_it_is_cut(
    format: ChatFormat, tokens: list[str], data: st.DataObject, is_open: bool
) -> None:
    answer = "".join(tokens)
    format = format.after("<think>" if is_open else "")
    whole = read(format, [answer])
    assert read(format, list(answer)) == whole
    assert read(format, tokens) == whole
    assert read(format, data.draw(cuts(answer))) == whole


@given(text=st.lists(st.sampled_from(["<think>", "</think>", "<", ">", "/think", " ", "\n", "a", "b"])).map("".join))
def test_nothing_but_a_pair_of_marks_and_the_space_around_them_is_lost(text: str) -> None:
    for format in (THINK, THINK.after("<think>\n")):
        thinking, answer, _ = read(format, [text], None)
        told, sent = "".join((thinking + answer).split()), "".join(text.split())
        assert len(sent) - len(told) in (0, len("<think>"), len("</think>"), len("<think></think>"))
        rest = iter(sent)
        assert all(character in rest for character in told), "in the order in which it came"


@given(values=st.dictionaries(st.sampled_from(["city", "days", "near", "tags", "any"]), st.text(max_size=20)))
def test_texts_that_are_given_as_texts_arrive_as_they_were(values: dict[str, str]) -> None:
    tools = {"weather": {"properties": {name: {"type": "string"} for name in values}}}
    # A value that itself ends an argument and begins another is beyond what this way of writing can say.
    answer = xml("weather", *values.items())
    ((name, arguments),) = read(QWEN, list(answer), tools)[2]
    assert name == "weather" and json.loads(arguments) == values


@pytest.mark.parametrize("marks", KNOWN_MARKS)
def test_each_kind_of_thinking_is_known_by_the_template(marks: Any) -> None:
    format = ChatFormat.of(f"{{{{ content.split('{marks.end}') }}}}")
    answer = f"{marks.begin}\nSo it is.\n{marks.end}\n\nYes."
    assert read(format, list(answer)) == ("So it is.", "Yes.", [])
    opened = format.after(f"assistant\n{marks.begin}\n")
    assert read(opened, list(answer.removeprefix(marks.begin))) == ("So it is.", "Yes.", [])
    assert read(opened, list(answer)) == ("So it is.", "Yes.", []), "some models begin it once more"
    assert read(format.after(f"{marks.begin}\n\n{marks.end}\n\n"), ["Yes."]) == ("", "Yes.", [])


def test_thinking_is_known_by_tokens_when_the_template_says_nothing_of_it() -> None:
    assert ChatFormat.of("{{ messages }}", {"<think>", "</think>", "x"}).thinking == THINK.thinking
    assert not ChatFormat.of("{{ messages }}", {"<think>"}).thinks


def test_thinking_streams_but_for_what_may_be_its_end() -> None:
    reader = THINK.after("<think>").reader()
    assert reader.feed("so it") == [Reasoning("so it")]
    assert reader.feed(" is </th") == [Reasoning(" is")]
    assert reader.feed("at way") == [Reasoning(" </that way")]
    assert reader.feed("</think>") == []
    assert reader.feed("\nYes") == ["Yes"]
    assert reader.thought == [(0, 27)]


def test_a_text_argument_streams() -> None:
    reader = QWEN.reader(TOOLS)
    assert reader.feed("<tool_call>\n<function=weather>\n<parameter=city>\n") == [
        CallBegan(0, "weather"), CallArguments(0, '{"city": "'),
    ]  # fmt: skip
    assert reader.feed('Par"is') == [CallArguments(0, 'Par\\"is')]


@pytest.mark.parametrize(
    ("template", "dialect"),
    [
        ("<|start|>assistant<|channel|>final<|message|>", ToolDialect.HARMONY),
        ("'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool.type", ToolDialect.DEEPSEEK),
        ("<|tool_calls_section_begin|><|tool_call_begin|>{{ call.id }}", ToolDialect.KIMI),
        ("'<tool_call>' + name <arg_key>", ToolDialect.TAGGED),
        ("<seed:tool_call>", ToolDialect.TAGGED),
    ],
)
def test_the_way_of_writing_calls_is_the_templates(template: str, dialect: ToolDialect) -> None:
    assert ChatFormat.of(template).dialect is dialect


@pytest.mark.parametrize(
    ("format", "prompt", "ending"),
    [
        (THINK, "assistant\n<think>\n", "\n</think>\n\n"),
        (THINK, "<Assistant><think>", "</think>"),
        (THINK, "assistant\n", ""),
        (THINK, "<think>\n\n</think>\n\n", ""),
        (HARMONY, "<|start|>assistant", "<|channel|>final<|message|>"),
        (PLAIN, "assistant\n", ""),
    ],
)
def test_thinking_that_a_prompt_begins_can_be_ended(format: ChatFormat, prompt: str, ending: str) -> None:
    assert format.without_thinking(prompt) == ending
    assert not format.after(prompt + ending).is_open


def test_marks_that_are_special_tokens_show_and_others_do_not() -> None:
    texts = ["<think>", "<other>", "</think>"]
    backend = tiny_tokenizers.words()
    backend.add_special_tokens(texts)
    ids = [found for text in texts if (found := backend.token_to_id(text)) is not None]
    tokenizer = Tokenizer(backend, {}, (), frozenset(ids))
    shown = THINK.shown(tokenizer)
    assert shown == {ids[0], ids[2]}
    stream = TextStream(tokenizer, TextRules(shown=shown))
    assert ("".join(map(stream.add, ids)) + stream.finish()).split() == ["<think>", "</think>"]
    detokenizer = Detokenizer(tokenizer, shown=shown)
    assert ("".join(map(detokenizer.add, ids)) + detokenizer.flush()).split() == ["<think>", "</think>"]
