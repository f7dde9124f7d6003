"""Rendered prompts equal transformers', and a template that comes with a model can do no harm."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from app.errors import ModelError, RequestError
from app.inference import chat_template
from app.inference.chat_template import ChatTemplate
from app.inference.tokenizer import Tokenizer
from tests.inference import tiny_tokenizers

CHATML = """
{%- for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}{{ '<|system|>You help.\\n' }}{% endif %}
    {{- bos_token ~ message['role'] + '\\n' + message['content'] | trim + eos_token }}
{% endfor %}
{% if add_generation_prompt %}
    {{ 'assistant:' }}
{% endif %}
"""
TOOLS = """
{%- set ns = namespace(found=false, system='') %}
{%- if tools is not none and tools %}
    {{- '# Tools\\n' }}
    {%- for tool in tools %}{{ tool.function | tojson }}
{{ tool | tojson(indent=2) }}{% endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% set ns.system = message.content %}{% continue %}{% endif %}
    {%- if message.tool_calls is defined %}
        {%- for c in message.tool_calls %}{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}
    {%- elif message.content is string %}
        {{- message.role | upper }}: {{ message.content.split('</think>')[-1].lstrip('\\n') }}
    {%- else %}
        {%- for part in message.content if part.type == 'text' %}[{{ part.text }}]{% endfor %}
    {%- endif %}
    {%- if loop.index0 > 20 %}{% break %}{% endif %}
{% endfor %}
{{- ns.system }}|{{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{%- if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}
{%- for key, value in dict(a=1, b='é').items() %} {{ key }}={{ value }}{% endfor %}
"""
GENERATION = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.reasoning_content }}{{ m['content'] }}{% endif %}{{ '%s-%d' | format('x', 1) }}{% endfor %}"
)
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " Grüße <b>& 'so' on</b> 你好 "},
        {"role": "assistant", "content": "<think>hm</think>\nHello."},
        {"role": "user", "content": "Again."},
    ],
]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"city": {"type": "string"}}}}
TOOL_CALL: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}],
}
PARTS = {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "image"}, {"type": "text", "text": "2"}]}


def template(source: str) -> ChatTemplate:
    return ChatTemplate({"default": source}, {"bos_token": "<bos>", "eos_token": "<eos>"})


def rendered_by_transformers(source: str, messages: list[dict[str, Any]], **options: Any) -> str:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizers.words(), bos_token="<bos>", eos_token="<eos>", chat_template=source
    )
    options.setdefault("add_generation_prompt", True)
    text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_prompts_equal_transformers_on_smollm(smollm: Path, messages: list[dict[str, Any]]) -> None:
    tokenizer, theirs = Tokenizer.open(smollm), AutoTokenizer.from_pretrained(smollm)
    ours = ChatTemplate.open(smollm, tokenizer.named_tokens)
    assert ours is not None
    for prompted in (True, False):
        text = ours.render(messages, add_generation_prompt=prompted)
        assert text == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompted)
        ids = theirs.apply_chat_template(messages, add_generation_prompt=prompted)["input_ids"]
        assert tokenizer.encode(text, add_special_tokens=False) == ids


@pytest.mark.parametrize("source", [CHATML, TOOLS, GENERATION])
@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("tools", [None, [TOOL]])
def test_prompts_equal_transformers_for_other_templates(
    source: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None
) -> None:
    expected = rendered_by_transformers(source, messages, tools=tools)
    assert template(source).render(messages, tools) == expected


@pytest.mark.parametrize("messages", [[PARTS], [*CONVERSATIONS[0], TOOL_CALL]])
def test_parts_tool_calls_and_further_variables_equal_transformers(messages: list[dict[str, Any]]) -> None:
    expected = rendered_by_transformers(TOOLS, messages, enable_thinking=False, add_generation_prompt=False)
    assert template(TOOLS).render(messages, add_generation_prompt=False, enable_thinking=False) == expected


def test_reasoning_is_shown_under_each_name_that_templates_use() -> None:
    messages = [{"role": "user", "content": "x", "reasoning": "because"}]
    expected = rendered_by_transformers(GENERATION, messages)
    assert template(GENERATION).render(messages) == expected
    assert expected.startswith("because")


def test_the_current_date_is_at_hand() -> None:
    shown = template("{{ strftime_now('%Y') }}{{ messages[0].content }}").render([{"role": "user", "content": "!"}])
    assert shown == time.strftime("%Y!")


# --- where templates come from ---


def test_the_file_wins_over_the_config_and_named_ones_are_used_for_tools(tmp_path: Path) -> None:
    def saying(words: str) -> str:
        return f"{words}{{{{ messages[0].content }}}}"

    def shown(tools: list[dict[str, Any]] | None = None) -> str:
        return _open(tmp_path).render([{"role": "user", "content": "!"}], tools)

    named = [{"name": "default", "template": saying("plain")}, {"name": "tool_use", "template": saying("with tools")}]
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": saying("oldest")}), encoding="utf-8")
    assert shown() == "oldest!"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}), encoding="utf-8")
    assert shown() == "plain!"
    assert shown([TOOL]) == "with tools!"
    (tmp_path / "chat_template.jinja").write_text(saying("from the file"), encoding="utf-8")
    assert shown([TOOL]) == "from the file!"


def _open(folder: Path) -> ChatTemplate:
    opened = ChatTemplate.open(folder, {})
    assert opened is not None
    return opened


def test_a_model_without_a_template_has_none(tmp_path: Path) -> None:
    assert ChatTemplate.open(tmp_path, {}) is None


def test_a_template_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ModelError, match="cannot be read"):
        ChatTemplate.open(tmp_path, {})


# --- refusals ---


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate."),
        ("{{ raise_exception('  ') }}", "refused"),
        ("{% if %}", "is broken"),
        ("{{ messages[0].nothing.more }}", "no attribute 'nothing'"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ messages.append(1) }}", "refused"),
        ("{{ cycler.__init__.__globals__ }}", "refused"),
        ("{% set ns = namespace(__class__=1) %}", "underscore"),
    ],
)
def test_a_refusal_says_what_the_template_says(source: str, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        template(source).render(CONVERSATIONS[0])
    assert says in caught.value.message and caught.value.advice


def test_an_empty_conversation_is_refused() -> None:
    with pytest.raises(RequestError, match="without messages"):
        template(CHATML).render([])


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% set n = namespace(s='aaaa') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% set n = namespace(s='aaaa') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% set n = namespace(s='aa') %}{% for i in range(60) %}{% set n.s = n.s.replace('a', n.s) %}{% endfor %}",
        "{% set n = namespace(s='aa') %}{% for i in range(60) %}{% set n.s = n.s | replace('a', n.s) %}{% endfor %}",
        "{{ range(99999) | join('x' * 1000000) }}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ [1] * 10 ** 10 }}",
        "{{ 9 ** 9 ** 9 ** 9 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '%*d' | format(999999999, 1) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ 'a' | center(10 ** 10) }}",
        "{{ 'a\n' | indent('x' * 16000000, true) }}",
        "{{ 'a'.ljust(10 ** 10) }}",
        "{{ [1] | batch(10 ** 10, 'a') | list }}",
    ],
)
def test_a_template_cannot_run_for_ever_or_fill_the_memory(source: str) -> None:
    began = time.monotonic()
    with pytest.raises(RequestError):
        template(source).render(CONVERSATIONS[0])
    assert time.monotonic() - began < 20  # the bound is 5 s; a loaded machine takes longer to notice


def test_a_long_conversation_stays_within_the_bounds() -> None:
    messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": "word " * 200} for i in range(4000)]
    assert template(TOOLS).render(messages).count("word") == 200 * 22  # it breaks after message 21
    assert template(CHATML).render(messages).count("word") == 200 * 4000


CALLS = [
    {"role": "user", "content": "Rain?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}],
    },
    {"role": "tool", "content": "no"},
]


@pytest.mark.parametrize(
    "source",
    [
        # null as the content of a message with calls, and arguments that are text: as DeepSeek's first templates
        "{% for m in messages %}{% if m['content'] is none %}{% for c in m['tool_calls'] %}"
        "{{ c['function']['name'] + '|' + c['function']['arguments'] + '|' }}{% endfor %}"
        "{% else %}{{ m['role'] + ':' + m['content'] + '|' }}{% endif %}{% endfor %}",
        # content that is always text
        "{% for m in messages %}{{ m.role + ':' + m.content + '|' if not m.content == '' }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.name }}|{{ c.function.arguments | tojson }}|"
        "{% endfor %}{% endfor %}",
        # what transformers shows
        "{% for m in messages %}{% if m.content is defined %}{{ m.role }}:{{ m.content }}|{% endif %}"
        "{% for c in m.tool_calls %}{{ c.function.name }}|{{ dict(c.function.arguments.items()) | tojson }}|"
        "{% endfor %}{% endfor %}",
    ],
)
def test_a_history_with_calls_is_shown_in_the_shape_that_the_template_can_read(source: str) -> None:
    assert template(source).render(CALLS) == 'user:Rain?|weather|{"city": "Zürich"}|tool:no|'


def test_a_template_that_reads_no_shape_says_why_it_could_not_read_the_usual_one() -> None:
    with pytest.raises(RequestError, match=r"'dict object' has no attribute 'content'|has no attribute"):
        template("{% for m in messages %}{{ m.nothing.at_all }}{% endfor %}").render(CALLS)


def test_a_template_that_refuses_is_asked_once() -> None:
    with pytest.raises(RequestError, match="No tools here"):
        template(
            "{% if messages[1].content is defined %}{% else %}{{ raise_exception('No tools here') }}{% endif %}"
        ).render(CALLS)


PARTS = (
    "{% for m in messages %}{{ m.role }}:{% for c in m.content %}{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}"
    "{% endfor %}|{% endfor %}"
)
MIXED = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}|{% else %}"
    "{{ m.content[0]['text'] | trim }}|{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            PARTS,
            "system:Be brief.|user:Hello.|assistant:Hi.|user:Again.|",
        ),  # of a text it shows nothing: letters have no type
        (MIXED, "Be brief.|Hello.|Hi.|Again.|"),
        (GENERATION, "Be brief.x-1Hello.x-1Hi.x-1Again.x-1"),
    ],
)
def test_what_is_said_comes_in_the_form_that_the_template_shows(source: str, expected: str) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Again."},
    ]
    assert template(source).render(messages, add_generation_prompt=False).strip() == expected


def test_a_template_that_drops_what_the_user_says_is_refused() -> None:
    source = "{% for m in messages %}{{ m.role }}: {{ m.text }}|{% endfor %}"
    with pytest.raises(RequestError, match="does not show the model what the user says"):
        template(source).render([{"role": "user", "content": "Hello."}])


@pytest.mark.parametrize(
    ("source", "knows"),
    [
        (TOOLS, True),
        ("{# tools are not for this model #}{% for m in messages %}{{ m.content }}{% endfor %}", False),
        ("Never speak of tools.{% for m in messages %}{{ m.content }}{% endfor %}", False),
        ("{% if tools %}{{ raise_exception('No tools.') }}{% endif %}{{ messages[0].content }}", True),
        ("{{ messages[0].content }}{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}", True),
    ],
)
def test_tools_are_known_to_a_template_that_shows_them(source: str, knows: bool) -> None:
    """One that takes no small conversation is believed if it reads them: it says itself why it refuses."""
    assert template(source).knows_tools is knows


def test_a_role_that_only_a_comment_names_is_not_known() -> None:
    said = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    assert template("{% if messages[0].role == 'developer' %}!{% endif %}" + said).knows_developer()
    assert not template("{# 'developer' #}" + said).knows_developer()
    hidden = "{% for m in messages if m.role != 'developer' %}{{ m.content }}{% endfor %}"
    assert not template(hidden).knows_developer()


def test_marks_that_a_comment_names_are_not_written() -> None:
    source = "{# <think> #}{% for m in messages %}{{ m.content }}{% endfor %}"
    assert "<think>" in template(source).source() and "<think>" not in template(source).words()


def test_a_role_that_somebody_made_up_is_given_as_it_comes_and_never_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thousand of them in a request would cost as many renderings, and be remembered for ever."""
    shown = template("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    tried: list[str] = []
    monkeypatch.setattr(chat_template, "content_form", lambda show, role: tried.append(role) or "text")
    messages = [{"role": f"role-{number}", "content": "hello"} for number in range(50)]
    text = shown.render([*messages, {"role": "user", "content": "question"}])
    assert text.count("hello") == 50 and tried == ["user"] and len(shown._forms) == 1
