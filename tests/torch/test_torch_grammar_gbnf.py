"""GBNF keeps its meaning: exactly the texts of a grammar are allowed, in both of its forms."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from openllm.engines.grammar_lark import MAX_LEVELS, to_lark
from openllm.engines.torch_grammar import GrammarCompiler, GrammarMatcher, apply_masks
from openllm.errors import EngineError, InvalidRequestError
from openllm.types import SamplingParams
from tests.torch import hf_tokenizers

END = 2
TOKENIZER: Any = AutoTokenizer.from_pretrained(hf_tokenizers.DEMO)
COMPILER = GrammarCompiler(TOKENIZER, len(TOKENIZER), [END])


@dataclass(frozen=True)
class Part:
    """A piece of GBNF with the texts it stands for: `ends(text, at)` are where it may end."""

    gbnf: str
    kind: str
    inner: tuple[Part, ...] = ()
    value: Any = None

    def ends(self, rules: dict[str, Part], text: str, at: int, depth: int = 0) -> set[int]:
        if depth > 60:  # Deeper than any text here needs, as rules call themselves after a sign.
            return set()
        if self.kind == "chars":
            return {at + 1} if at < len(text) and text[at] in self.value else set()
        if self.kind == "literal":
            return {at + len(self.value)} if text.startswith(self.value, at) else set()
        if self.kind == "rule":
            return rules[self.value].ends(rules, text, at, depth + 1)
        if self.kind == "choice":
            return set().union(*(part.ends(rules, text, at, depth + 1) for part in self.inner))
        if self.kind == "sequence":
            found = {at}
            for part in self.inner:
                found = {end for one in found for end in part.ends(rules, text, one, depth + 1)}
            return found
        least, most = self.value
        found, reached = set(), {at}
        for count in range(least + len(text) + 1 if most is None else most + 1):
            if count >= least:
                found |= reached
            reached = {
                end for one in reached for end in self.inner[0].ends(rules, text, one, depth + 1)
            }
        return found


def literal(text: str) -> Part:
    return Part(json.dumps(text), "literal", value=text)


def choice(parts: list[Part]) -> Part:
    return Part("(" + " | ".join(part.gbnf for part in parts) + ")", "choice", tuple(parts))


def sequence(parts: list[Part]) -> Part:
    return Part("(" + " ".join(part.gbnf for part in parts) + ")", "sequence", tuple(parts))


def repeat(part: Part, sign: tuple[str, int, int | None]) -> Part:
    return Part(f"({part.gbnf}){sign[0]}", "repeat", (part,), sign[1:])


LEAVES = st.sampled_from([
    literal("a"), literal("ab"), literal("ba"), literal(""), literal("abc"),
    Part("[ab]", "chars", value="ab"), Part("[^a]", "chars", value="bc"),
    Part("[a-b]", "chars", value="ab"), Part("[\\x61c]", "chars", value="ac"),
    Part(".", "chars", value="abc"),
])  # fmt: skip
SIGNS = st.sampled_from([
    ("*", 0, None), ("+", 1, None), ("?", 0, 1), ("{2}", 2, 2), ("{1,2}", 1, 2), ("{2,}", 2, None),
])  # fmt: skip


def bodies(leaves: st.SearchStrategy[Part]) -> st.SearchStrategy[Part]:
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, min_size=1, max_size=3).map(choice)
            | st.lists(inner, min_size=1, max_size=3).map(sequence)
            | st.builds(repeat, inner, SIGNS)
        ),
        max_leaves=6,
    )


@st.composite
def grammars(draw: st.DrawFn) -> dict[str, Part]:
    """Three rules; where they call each other, a sign has been read before."""
    names = ["root", "one", "two-x"]
    leaves = LEAVES
    if draw(st.booleans()):
        calls = [
            sequence([literal(sign), Part(name, "rule", value=name)])
            for sign in "ab"
            for name in names
        ]
        leaves = LEAVES | st.sampled_from(calls)
    rules = {name: draw(bodies(leaves)) for name in names[1:]}
    plain = [Part(name, "rule", value=name) for name in rules]
    rules["root"] = draw(bodies(leaves | st.sampled_from(plain)))
    return rules


def allows(native: Any, text: str) -> bool:
    matcher = native.deep_copy()
    tokens = [TOKENIZER.encode(sign, add_special_tokens=False)[0] for sign in text]
    return matcher.try_consume_tokens(tokens) == len(tokens) and bool(matcher.is_accepting())


TEXTS = ["".join(signs) for size in range(5) for signs in itertools.product("abc", repeat=size)]


@settings(max_examples=150, deadline=None)
@given(grammars())
def test_exactly_the_texts_of_a_grammar_are_allowed(rules: dict[str, Part]) -> None:
    from llguidance import LLMatcher

    gbnf = "\n".join(f"{name} ::= {rule.gbnf}" for name, rule in rules.items())
    expected = [text for text in TEXTS if len(text) in rules["root"].ends(rules, text, 0)]
    for form in to_lark(gbnf):
        native = LLMatcher(COMPILER.tokenizer, LLMatcher.grammar_from_lark(form), log_level=0)
        if native.is_error():
            assert not expected, native.get_error()
            continue
        assert [text for text in TEXTS if allows(native, text)] == expected, form


def matcher_of(grammar: str) -> GrammarMatcher:
    matcher = COMPILER.compile(SamplingParams(grammar=grammar))
    assert matcher is not None
    return matcher


def follows(grammar: str, text: str) -> bool:
    """Whether the text, as the model's tokenizer splits it, is one of the grammar's."""
    matcher = matcher_of(grammar)
    try:
        for token_id in [*TOKENIZER.encode(text, add_special_tokens=False), END]:
            matcher.accept(token_id)
    except EngineError:
        return False
    return True


@pytest.mark.parametrize(
    ("grammar", "yes", "no"),
    [
        ("root ::= [a-z]+ \"x\"\n", ["abx", "xxx"], ["ab", "x"]),
        ('root ::= w "x" r?\nw ::= [a-z]+\nr ::= "(" r ")" | "!"', ["abxx(!)"], ["(!)", "ab"]),
        ('root ::= ("if" "!" | [a-z]+ "?") root?', ["if!if?", "ifx?"], ["ifx!"]),
        ('root ::= "\\x41\\u00e9\\U0001F600\\n\\t\\\\\\""', ['Aé😀\n\t\\"'], ["A"]),
        ('root ::= [\\x41\\u00e9\\U0001F600]{3}', ["Aé😀"], ["Ae😀"]),
        ("root ::= [^\"\\\\\\n]{2}", ["é/", "日]"], ['a"', "a\n", "a\\"]),
        ("root ::= [a\\]\\[-]+", ["]-[a"], ["b"]),
        ("root ::= [+-]? [.0-9^]+", ["-1.5^2", ".5"], ["+-1"]),
        ("root ::= .{3}", ["a\nb", "日本é"], ["ab"]),
        ('root ::= "a" # to the end " of line\n\n# more\nother ::= "b"', ["a"], ["b"]),
        ('root ::= (\n  "a"\n  | "b"\n)\n', ["a", "b"], ["ab"]),
        ('root ::= "a" |\n  "b"\r\nx ::= "c"', ["a", "b"], ["c"]),
        ('root ::= | "a"', ["", "a"], ["aa"]),
        ('root ::= "a"{ 2 , 3 } "b"{0} "c"{0,1}', ["aa", "aaac"], ["aaaa", "aab"]),
        ('root ::= root "a" | "b"', ["b", "baa"], ["a", "ab"]),
        ('root ::= a\na ::= "x"\na ::= "y"', ["y"], ["x"]),
        ('root ::= "//" [/] "/"', ["////"], ["///"]),
        ('root ::= "(?i)a.b{2}"', ["(?i)a.b{2}"], ["Axbb"]),
    ],
)  # fmt: skip
def test_notation(grammar: str, yes: list[str], no: list[str]) -> None:
    assert [follows(grammar, text) for text in yes] == [True] * len(yes)
    assert [follows(grammar, text) for text in no] == [False] * len(no)


def chained(count: int, rule: str = "{}", last: str = "") -> str:
    rules = [f"r{at} ::= " + rule.replace("{}", f"r{at + 1}") for at in range(count)]
    return "\n".join(["root ::= r0", *rules, f'r{count} ::= "a"{last}'])


@pytest.mark.parametrize(
    ("grammar", "named"),
    [
        ("", "has 0 bytes"),
        ("x" * 65_537, "65537 bytes"),
        ("root", "line 1 has the end where `::=`"),
        ("root ::= b", "no rule 'b'"),
        ('rot ::= "a"', "no rule 'root'"),
        ('root ::= "a', "line 1"),
        ('root ::= "a"\n\nx ::= [a', "line 3"),
        ('root ::= ("a"', r"the end where `\)`"),
        ('root ::= "a")', r"'\)'"),
        ('root ::= "a"\n | "b"', r"line 2 has '\|'"),
        ("root ::= *", r"'\*'"),
        ('root ::= "\\q"', "escape"),
        ('root ::= "\\x4"', "escape"),
        ('root ::= "\\ud800"', "U\\+D800"),
        ('root ::= "\\U00110000"', "U\\+110000"),
        ("root ::= []", "empty set"),
        ("root ::= [z-a]", "backwards"),
        ('root ::= "a"{3,2}', "3 to 2"),
        ('root ::= "a"{2001}', "2001 times"),
        ('root ::= "a"*+', "repeats a repetition in line 1"),
        ("root ::= <[12]>", "'<'"),
        ("%llguidance {}", "'%'"),
        ("root ::= " + "(" * 65 + '"a"' + ")" * 65, "64 parentheses"),
        ("root ::= a\na ::= a", "no text satisfies it"),
        (chained(MAX_LEVELS), "603 levels deep; the limit is 600"),
        (chained(MAX_LEVELS // 3, '"b" | ({})', " | root"), "604 levels"),
        ("root ::= \"\ud800\"", "U\\+D800"),
    ],
)  # fmt: skip
def test_what_is_no_grammar_is_refused_by_name(grammar: str, named: str) -> None:
    with pytest.raises(InvalidRequestError, match=named) as caught:
        COMPILER.compile(SamplingParams(grammar=grammar))
    assert caught.value.param == "grammar"
    assert "\n" not in caught.value.message


JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_whatever_is_said_under_a_grammar_of_json_is_json() -> None:
    ended = 0
    for seed in range(20):
        matcher = matcher_of(JSON)
        rng = random.Random(seed)
        said: list[int] = []
        for _ in range(150):
            logits = torch.zeros(1, len(TOKENIZER))
            apply_masks(logits, [(0, matcher)])
            found = logits[0].isfinite().nonzero().flatten().tolist()
            quotes = [each for each in found if '"' in TOKENIZER.decode([each])]
            token_id = rng.choice(quotes if quotes and rng.random() < 0.3 else found)
            if END in found and rng.random() < 0.5:
                token_id = END
            matcher.accept(token_id)
            if token_id == END:
                assert isinstance(json.loads(TOKENIZER.decode(said)), dict)
                ended += 1
                break
            said.append(token_id)
    assert ended >= 5
