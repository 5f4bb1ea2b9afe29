"""Templates of strangers: each ends with a clear error, soon and in bounded memory."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from openllm.errors import InvalidRequestError, ModelFileError
from openllm.prompts import ChatTemplate
from openllm.types import Message

HELLO = Message("user", "Hello")
GROW = 60

ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''.__class__ }}",
    "{{ ''['__class__'] }}",
    "{{ '' | attr('__class__') }}",
    "{{ ['']|map(attribute='__class__')|list }}",
    "{{ raise_exception.__globals__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ self.__init__ }}",
    "{{ namespace.__init__ }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{{ messages[0].clear() }}",
]
FOREIGN = [
    "{% include '/etc/passwd' %}",
    "{% extends 'x' %}",
    "{% import 'x' as x %}",
    "{% from 'x' import y %}",
]
ENDLESS = [
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}xxxx{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% set _ = range(99999)|list|sort|unique|list %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{% for x in [1] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "{{ range(99999)|map('string')|map('upper')|list|join(range(99999)|join) }}",
]
GROWING = [
    "{{ 'a' * 10**10 }}",
    "{{ [1] * 10**9 }}",
    "{{ 9**9**9**9 }}",
    "{{ 'a'.ljust(10**10) }}",
    "{{ 'a'.encode() }}",
    "{{ (1).to_bytes(10**10, 'big') }}",
    "{{ '%99999999999d' % 1 }}",
    "{{ '%*d' % (99999999, 1) }}",
    "{{ '%.999999999f' % 1 }}",
    "{{ '%2.*f' % (99999999, 1) }}",
    "{{ '%(a)999999999d' % {'a': 1} }}",
    "{{ '%(a(b)c)-999999999d' % {'a(b)c': 1} }}",
    "{{ '{:99999999999}'.format(1) }}",
    "{{ '{:{w}}'.format(1, w=99999999) }}",
    "{{ '{0[}]:99999999}'.format({'}': 1}) }}",
    "{{ 'a'|indent(10**9) }}",
    "{{ 'a'|indent(-(10**9)) }}{{ 'a' * 10**8 }}",
    "{{ [1]|tojson(indent=-(10**9)) }}{{ 'a' * 10**8 }}",
    "{{ 'a'|indent('b' * 10**9) }}",
    "{{ [1]|tojson(indent=10**9) }}",
    "{{ 'a'|replace('a', 'b' * 10**6)|replace('b', 'c' * 10**6) }}",
    "{% set x = 'a' * 10**4 %}{{ x.replace('a', x).replace('a', x) }}",
    "{% set x = 'a' * 10**6 %}{{ x.join(range(99999)|map('string')) }}",
    "{% set x = 'aaaa' %}" + "{% set x = x ~ x %}" * GROW + "{{ x }}",
    "{% set x = 'aaaa' %}" + "{% set x = x + x %}" * GROW + "{{ x }}",
    "{% set x = [1] %}" + "{% set x = [x, x] %}" * GROW + "{{ x }}",
    "{% set x = [1] %}" + "{% set x = x + x %}" * GROW + "{{ x }}",
    "{% set x = (1,) %}" + "{% set x = (x, x) %}" * GROW + "{{ {x: 1} }}",
    "{% set x = {} %}" + "{% set x = dict(a=x, b=x) %}" * GROW + "{{ x == x|tojson }}",
    "{% set x %}aaaa{% endset %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * GROW + "{{ x }}",
    "{% set x %}{% for i in range(99999) %}" + "y" * 50_000 + "{% endfor %}{% endset %}",
]
UNCOMPILABLE = [
    "{{ 'a'" + " ~ 'a'" * 1_000_000 + " }}",
    "{{ 1" + " + 1" * 15_000 + " }}",
    "{{ " + "(" * 30_000 + "1" + ")" * 30_000 + " }}",
    "{{ " + "not " * 15_000 + "1 }}",
    "{{ x" + "|upper" * 10_000 + " }}",
    "{{ x" + ".a" * 30_000 + " }}",
    "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
    "{% for i in [1] %}" * 200 + "{% endfor %}" * 200,
    "{{ 'a'|center(10**10) }}",
]


def shortened(source: str) -> str:
    return source[:60]


@pytest.mark.parametrize(
    "source", [*ESCAPES, *FOREIGN, *ENDLESS, *GROWING, *UNCOMPILABLE], ids=shortened
)
def test_hostile_template_fails_cleanly_when_loaded(source: str) -> None:
    started = time.process_time()
    with pytest.raises(ModelFileError) as raised:
        ChatTemplate(source)
    # The limit is 1 s of rendering; compiling the largest source takes most of another.
    assert time.process_time() - started < 3
    assert raised.value.message.startswith("The chat template ")
    assert " at 0x" not in raised.value.message


@pytest.mark.parametrize("source", GROWING, ids=shortened)
def test_memory_stays_bounded(source: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError):
            ChatTemplate(source)
        assert tracemalloc.get_traced_memory()[1] < 300 * 1024 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("body", [ENDLESS[1], ENDLESS[4], GROWING[0], ESCAPES[0]], ids=shortened)
def test_trap_that_a_message_springs_is_a_bad_request(body: str) -> None:
    template = ChatTemplate("{% if messages[0].content == 'go' %}" + body + "{% endif %}ok")
    assert template.render([HELLO]) == ("ok",)
    started = time.process_time()
    with pytest.raises(InvalidRequestError, match="cannot render these messages") as raised:
        template.render([Message("user", "go")])
    assert time.process_time() - started < 3
    assert raised.value.param == "messages"
    assert template.render([HELLO]) == ("ok",)


def test_output_is_limited_to_eight_mebibytes() -> None:
    template = ChatTemplate("{{ messages[0].content }}")
    limit = 8 * 1024 * 1024
    (text,) = template.render([Message("user", "x" * limit)])
    assert len(text) == limit
    with pytest.raises(InvalidRequestError, match="writes more than 8388608 characters"):
        template.render([Message("user", "x" * (limit + 1))])


def test_text_that_grows_with_each_turn_stays_within_the_limits() -> None:
    source = (
        "{% set out = namespace(text='') %}"
        "{% for m in messages %}{% set out.text = out.text ~ m.role ~ ':' %}"
        "{% set out.text = out.text ~ m.content ~ ';' %}{% endfor %}{{ out.text }}"
    )
    messages = [Message("user", "x" * 2000)] * 200 + [Message("user", "y" * 100_000)]
    (text,) = ChatTemplate(source).render(messages)
    assert text == ("user:" + "x" * 2000 + ";") * 200 + "user:" + "y" * 100_000 + ";"


def test_each_character_of_a_long_text_may_be_looked_at() -> None:
    """As templates for images do, that look for one in a text as if it were parts."""
    template = ChatTemplate(
        "{% for m in messages %}{% for part in m.content %}"
        "{% if part.type == 'image' %}!{% endif %}{% endfor %}{{ m.content|length }}{% endfor %}"
    )
    assert template.render([Message("user", "x" * 200_000)]) == ("200000",)


def test_call_in_a_loop_pays_for_its_arguments_alone() -> None:
    source = (
        "{% for m in messages %}{% set before = messages[:loop.index] %}"
        "{% set text = m.content %}{{ text.replace('a', 'b') ~ '{}'.format(text) }}{% endfor %}"
    )
    (text,) = ChatTemplate(source).render([Message("user", "a")] * 2000)
    assert text == "ba" * 2000


def test_long_conversation_stays_within_the_limits() -> None:
    source = (
        "{% set ns = namespace(turns=[]) %}"
        "{% for m in messages %}{% set ns.turns = ns.turns + [m] %}{% endfor %}"
        "{% for m in ns.turns %}{{ '<' + m.role + '>' + m.content + '\n' }}{% endfor %}"
    )
    messages = [Message("user", "x" * 1000)] * 4096
    (text,) = ChatTemplate(source).render(messages)
    assert text == ("<user>" + "x" * 1000 + "\n") * 4096
