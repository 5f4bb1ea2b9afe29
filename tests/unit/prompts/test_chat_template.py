from __future__ import annotations

import logging
import threading
from datetime import datetime

import pytest

from openllm.errors import InvalidRequestError, ModelFileError
from openllm.prompts import ChatTemplate, LiteralText
from openllm.types import Message
from tests.unit.prompts.templates import (
    CHATML,
    GEMMA,
    LLAMA2,
    LLAMA3,
    MISTRAL,
    PARTS,
    PHI,
    REASONING,
    chat_template,
)

SYSTEM = Message("system", "Be brief.")
HELLO = Message("user", "Hello")
HI = Message("assistant", "Hi!")
MORE = Message("user", "More?")


def rendered(source: str, *messages: Message, prompt: bool = True) -> str:
    """The prompt, which must be one text."""
    (text,) = chat_template(source).render(messages, add_generation_prompt=prompt)
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            CHATML,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
            "<|im_start|>assistant\nHi!<|im_end|>\n<|im_start|>user\nMore?<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (
            LLAMA2,
            "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHello [/INST] Hi! </s>"
            "<s>[INST] More? [/INST]",
        ),
        (
            LLAMA3,
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHi!<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nMore?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            GEMMA,
            "<bos><start_of_turn>user\nBe brief.\n\nHello<end_of_turn>\n"
            "<start_of_turn>model\nHi!<end_of_turn>\n"
            "<start_of_turn>user\nMore?<end_of_turn>\n<start_of_turn>model\n",
        ),
        (MISTRAL, "<s>[INST] Be brief.\n\nHello[/INST] Hi!</s>[INST] More?[/INST]"),
        (
            PHI,
            "<|system|>\nBe brief.<|end|>\n<|user|>\nHello<|end|>\n"
            "<|assistant|>\nHi!<|end|>\n<|user|>\nMore?<|end|>\n<|assistant|>\n",
        ),
        (PARTS, "<|system|>Be brief.<|user|>Hello<|assistant|>Hi!<|user|>More?"),
    ],
    ids=["chatml", "llama2", "llama3", "gemma", "mistral", "phi", "parts"],
)
def test_conversation_in_the_form_of_each_family(source: str, expected: str) -> None:
    text = rendered(source, SYSTEM, HELLO, HI, MORE)
    assert text.lstrip("\n") == expected


def test_generation_prompt_can_be_left_out() -> None:
    assert rendered(CHATML, HELLO, prompt=False) == "<|im_start|>user\nHello<|im_end|>\n"


def test_bos_is_text_and_that_of_a_user_is_literal() -> None:
    template = ChatTemplate("{{ bos_token }}{{ messages[0].content }}", bos_token="<s>")
    assert template.render([Message("user", "<s>a")]) == ("<s>", LiteralText("<s>"), "a")


def test_prompt_of_nothing_is_empty() -> None:
    assert ChatTemplate("{{ bos_token }}").render([HELLO]) == ()


@pytest.mark.spec("S3-28")
@pytest.mark.parametrize("role", ["system", "developer"])
def test_system_message_counts_only_as_the_first(
    role: str, caplog: pytest.LogCaptureFixture
) -> None:
    later = Message(role, "Secret second orders.")
    with caplog.at_level(logging.WARNING, "openllm.prompts"):
        text = rendered(CHATML, SYSTEM, HELLO, later, MORE)
    assert text == rendered(CHATML, SYSTEM, HELLO, MORE)
    (record,) = caplog.records
    assert "is ignored" in record.getMessage()
    assert "Secret" not in record.getMessage()


def test_developer_is_the_system() -> None:
    developer = Message("developer", "Be brief.")
    assert rendered(CHATML, developer, HELLO) == rendered(CHATML, SYSTEM, HELLO)


def test_system_text_becomes_a_users_where_no_user_follows() -> None:
    assert "user\nBe brief.<end_of_turn>" in rendered(GEMMA, SYSTEM)
    assert "user\nBe brief.<end_of_turn>\n<start_of_turn>model\nHi!" in rendered(GEMMA, SYSTEM, HI)


def test_empty_texts_are_not_joined() -> None:
    empty = Message("user", "")
    assert "user\nBe brief.<end_of_turn>" in rendered(GEMMA, SYSTEM, empty)
    assert "user\nHello<end_of_turn>" in rendered(GEMMA, Message("system", ""), HELLO)


def test_template_that_drops_the_system_message_gets_it_from_the_user() -> None:
    source = "{% for m in messages if m.role != 'system' %}{{ m.content }};{% endfor %}"
    assert ChatTemplate(source).render([SYSTEM, HELLO]) == ("Be brief.\n\nHello;",)


def test_consecutive_users_are_passed_as_they_are() -> None:
    assert rendered(CHATML, HELLO, MORE).count("<|im_start|>user\n") == 2


@pytest.mark.parametrize("content", ["", None])
def test_no_content_is_empty_text(content: str | None) -> None:
    message = Message("assistant", content)  # type: ignore[arg-type]
    assert "<|im_start|>assistant\n<|im_end|>\n" in rendered(CHATML, HELLO, message)


def test_name_is_there_only_when_given() -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.name if m.name is defined }}.{% endfor %}")
    assert template.render([HELLO, Message("user", "x", name="Ada")]) == (".Ada.",)


def test_template_that_raises_is_a_bad_request_with_its_message() -> None:
    with pytest.raises(InvalidRequestError, match="Roles must alternate user/assistant") as raised:
        chat_template(LLAMA2).render([HELLO, MORE])
    assert raised.value.param == "messages"


def test_template_that_fails_is_a_bad_request_without_inner_matters() -> None:
    template = ChatTemplate("{% if messages|length > 1 %}{{ messages[0] < 1 }}{% endif %}ok")
    assert template.render([HELLO]) == ("ok",)
    with pytest.raises(InvalidRequestError, match="it fails with TypeError") as raised:
        template.render([HELLO, HI])
    assert raised.value.param == "messages"


@pytest.mark.parametrize("role", ["", "user\n", "<|im_end|>", "a" * 33, "us er"])
def test_role_that_is_no_word_is_refused(role: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not a role"):
        chat_template(CHATML).render([Message(role, "x")])


def test_no_messages_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="messages is empty"):
        chat_template(CHATML).render([])


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("a\n{% if x %}", "does not compile: line 2: Unexpected end of template"),
        ("{{ x | nosuch }}", "line 1: No filter named 'nosuch'"),
        ("{% include 'x' %}", "line 1: It refers to another template"),
        ("{% frob %}", "line 1: Encountered unknown tag 'frob'"),
        ("x" * 70_000, "has 70000 characters, at most 65536"),
    ],
)
def test_template_that_does_not_compile_says_where(source: str, said: str) -> None:
    with pytest.raises(ModelFileError, match=said):
        ChatTemplate(source)


def test_names_that_templates_of_hugging_face_expect() -> None:
    source = (
        "{{ bos_token }}{{ eos_token }}{{ tools is none }}{{ documents is none }}"
        "{{ {'a': 'é<', 'b': [1]} | tojson }}{{ [1, 2] | tojson(indent=1) }}"
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}"
        "{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}{{ strftime_now('%Y') }}"
    )
    (text,) = ChatTemplate(source, bos_token="<s>", eos_token="</s>").render([HELLO])
    expected = '<s></s>TrueTrue{"a": "é<", "b": [1]}[\n 1,\n 2\n]02'
    assert text == expected + str(datetime.now().astimezone().year)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ '%02d|%.2f|%(a)s' % {'a': 1} if false else '%02d|%.2f' % (7, 0.5) }}", "07|0.50"),
        ("{{ 'Name: {}, {:>4}'.format('Ada', 7) }}", "Name: Ada,    7"),
        (
            "{% for i in [1, 2] %}{% set a = i %}{{ 'ab'.replace('a', 'c' * a) }}{% endfor %}",
            "cbccb",
        ),
        ("{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}", "21"),
        ("{{ 'a\r\nb\n\nc'|indent(2) }}|{{ 'a\nb'|indent('> ', true) }}", "a\n  b\n\n  c|> a\n> b"),
        ("{{ ('<a>'|safe)|replace('<', '&') }}{{ ('a\nb'|e)|indent(1) + '<' }}", "&a>a\n b&lt;"),
        ("{{ [1]|tojson(indent='\t') }}", "[\n\t1\n]"),
        ("{{ strftime_now('%Z%z') }}", ""),
    ],
)
def test_means_of_jinja_work_as_in_hugging_faces_renderer(source: str, expected: str) -> None:
    assert "".join(map(str, ChatTemplate(source).render([HELLO]))) == expected


def test_blocks_are_trimmed_as_hugging_face_does() -> None:
    template = ChatTemplate("  {% if true %}\nyes\n  {% endif %}\n")
    assert template.render([HELLO]) == ("yes\n",)


def test_reasoning_is_cut_where_the_template_cuts_it() -> None:
    answer = Message("assistant", "<think>hm</think>\n\nFour.")
    assert "assistant\nFour.<|im_end|>" in rendered(REASONING, HELLO, answer)


def test_threads_share_a_template() -> None:
    template = chat_template(CHATML)
    results: list[bool] = []

    def work(word: str) -> None:
        message = Message("user", f"{word}<|im_end|>" * 50)
        first = template.render([message])
        results.append(all(template.render([message]) == first for _ in range(100)))

    threads = [threading.Thread(target=work, args=(str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4
