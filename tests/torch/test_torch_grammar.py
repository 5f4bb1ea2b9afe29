"""Text held to a schema holds it, whatever the model likes; what cannot be held is refused."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
import torch
from transformers import AutoTokenizer

from openllm.engines.torch_grammar import GrammarCompiler, GrammarMatcher, apply_masks
from openllm.engines.torch_sampling import Sampler, SequenceSampling
from openllm.errors import EngineError, InvalidRequestError, UnsupportedError
from openllm.types import SamplingParams
from tests.torch import hf_tokenizers

END = 2
SEEDS = 20
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep torch's threads from waiting for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(hf_tokenizers.DEMO)


@pytest.fixture(scope="module")
def compiler(tokenizer: Any) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, len(tokenizer), [END])


class Babbler:
    """A model that says anything: random logits, some of which it likes better at every step."""

    def __init__(self, compiler: GrammarCompiler, tokenizer: Any, end: int = END) -> None:
        self._compiler = compiler
        self._tokenizer = tokenizer
        self._end = end
        self._liked = torch.zeros(len(tokenizer))
        # Else a string would seldom end, nor the text where it may.
        closing = [at for at in range(len(tokenizer)) if '"' in tokenizer.decode([at])]
        self._liked[[*closing, end]] = 2.5

    def say(self, params: SamplingParams, rows: int, limit: int) -> list[str | None]:
        """Generate `rows` texts as one batch; None for those that `limit` cut short."""
        vocab = len(self._tokenizer)
        generator = torch.Generator().manual_seed(0)
        running = [
            SequenceSampling(params, index, [], vocab, self._compiler.compile(params))
            for index in range(rows)
        ]
        said: dict[SequenceSampling, list[int]] = {row: [] for row in running}
        order = list(running)
        sampler = Sampler(vocab, CPU)
        ended = {}
        for _ in range(limit):
            logits = torch.randn(len(running), vocab, generator=generator) * 2 + self._liked
            token_ids = sampler.sample(logits, running).token_ids
            for row, token_id in zip(list(running), token_ids, strict=True):
                if token_id < 0:
                    raise row.failure()
                row.accept(token_id)
                if token_id != self._end:
                    said[row].append(token_id)
                    continue
                ended[row] = self._tokenizer.decode(said[row])
                running.remove(row)
            if not running:
                break
        return [ended.get(row) for row in order]


@pytest.fixture(scope="module")
def babbler(compiler: GrammarCompiler, tokenizer: Any) -> Babbler:
    return Babbler(compiler, tokenizer)


def obj(required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }


TREE = {
    "$defs": {
        "node": obj(
            value={"type": "integer"},
            next={"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
        )
    },
    "$ref": "#/$defs/node",
}
NULL: dict[str, Any] = {"type": "null"}
INT: dict[str, Any] = {"type": "integer"}
SHORT: dict[str, Any] = {"type": "string", "maxLength": 12}
SCHEMAS: list[dict[str, Any]] = [
    {},
    {"type": "object"},
    {"type": "array"},
    {"type": "string"},
    {"type": "number"},
    INT,
    {"type": "boolean"},
    NULL,
    {"type": ["string", "null"]},
    {"type": ["integer", "boolean"]},
    {"enum": ["🙂", "👩‍👩‍👧‍👦", "é", "日本"]},
    {"enum": ['"', "\\", "/", "\n", "\u0000", "\u2028"]},
    {"enum": [1, 1.5, None, True, "x", [1, "a"], {"a": {"b": 2}}]},
    {"const": "naïve café"},
    {"const": {"a": [1, 2, {"b": None}]}},
    {"const": -0.25},
    {"type": "string", "minLength": 3, "maxLength": 5},
    {"type": "string", "maxLength": 0},
    {"type": "string", "minLength": 1, "maxLength": 1},
    {"type": "string", "pattern": "^[a-z]{2,4}$"},
    {"type": "string", "pattern": "^\\d{3}-\\d{4}$"},
    {"type": "string", "pattern": '^[^"]{3}$'},
    {"type": "string", "pattern": "^\\\\[a-z]$"},
    {"type": "string", "pattern": '^"[a-z]+"$'},
    {"type": "string", "pattern": "^a/[bc]\\.é$"},
    {"type": "string", "pattern": "^(ja|nein|vielleicht)$"},
    {"type": "string", "pattern": "[0-9]$", "maxLength": 10},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "time"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "ipv4"},
    {"type": "string", "format": "uuid"},
    {"type": "integer", "minimum": -5, "maximum": 5},
    {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 4},
    {"type": "integer", "minimum": 12345, "maximum": 12399},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": -1, "exclusiveMaximum": 1},
    {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 100},
    {"type": "array", "items": INT, "minItems": 2, "maxItems": 4},
    {"type": "array", "items": SHORT, "maxItems": 3},
    {"type": "array", "maxItems": 0},
    {"type": "array", "prefixItems": [INT, SHORT], "items": False},
    {"type": "array", "prefixItems": [{"type": "boolean"}], "items": NULL, "maxItems": 3},
    {"type": "array", "items": {"type": "array", "items": INT, "maxItems": 2}, "maxItems": 2},
    obj(),
    obj(a=INT),
    obj(a=INT, b=SHORT, c={"type": "boolean"}),
    obj([], a=INT, b=SHORT, c={"type": "boolean"}),
    obj(["b"], a=INT, b=SHORT),
    obj(**{"naïve": INT, 'a"b': NULL, "日本": NULL}),
    {"type": "object", "additionalProperties": INT},
    {"type": "object", "properties": {"a": INT}, "additionalProperties": SHORT},
    {"type": "object", "patternProperties": {"^x_[a-z]{1,3}$": INT}, "additionalProperties": False},
    {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a", "b"]},
    obj(a=obj(b=obj(c=obj(d=INT)))),
    {"anyOf": [INT, {"type": "boolean"}]},
    {"anyOf": [obj(kind={"const": "a"}, x=INT), obj(kind={"const": "b"}, y=SHORT)]},
    {"oneOf": [NULL, {"type": "array", "items": NULL, "maxItems": 2}]},
    {"oneOf": [obj(t={"const": 1}, a=INT), obj(t={"const": 2}, b=INT)]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]},
    {"allOf": [{"type": "object", "properties": {"a": INT}}, {"required": ["a"]}, obj([], a=INT)]},
    TREE,
    {"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}, "maxItems": 2}},
     "$ref": "#/$defs/n"},
    {"definitions": {"c": {"enum": ["red", "green"]}}, **obj(c={"$ref": "#/definitions/c"})},
]  # fmt: skip


@pytest.mark.reliability("C-18")
@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda each: json.dumps(each)[:60])
def test_whatever_the_model_says_satisfies_the_schema(
    babbler: Babbler, schema: dict[str, Any]
) -> None:
    params = SamplingParams(json_schema=schema, temperature=1.5, seed=1)
    texts = babbler.say(params, SEEDS, 100)
    ended = [text for text in texts if text is not None]
    assert ended
    validator = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    for text in ended:
        validator.validate(json.loads(text))


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = SHORT
    for _ in range(depth):
        schema = obj(a=schema)
    return schema


def chain(length: int) -> dict[str, Any]:
    links = {str(at): {"items": {"$ref": f"#/$defs/{at + 1}"}} for at in range(length)}
    return {"$ref": "#/$defs/0", "$defs": {**links, str(length): NULL}}


def searches(count: int) -> list[dict[str, Any]]:
    return [{"type": "string", "pattern": f".*a.{{{at}}}b"} for at in range(count)]


@pytest.mark.reliability("C-18")
def test_white_space_between_the_parts_is_bounded(babbler: Babbler) -> None:
    for schema in ({}, {"type": "object"}, SCHEMAS[46]):
        for text in babbler.say(SamplingParams(json_schema=schema, seed=3), 30, 200):
            bare = re.sub(r'"(\\.|[^"\\])*"', '""', text or "")
            assert not re.search(r"\s(?<!, |: )|\s\s", bare), text


@pytest.mark.reliability("C-18")
@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "bogus"}, "bogus"),
        ({"$ref": "#"}, "no text satisfies it"),
        ({"$ref": "https://example.com/schema.json"}, "https://example.com/schema.json"),
        ({"$ref": "#/$defs/missing"}, "missing"),
        ({"type": "string", "pattern": "(["}, "pattern"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "format": "iri"}, "iri"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
        ({"type": "integer", "minimum": 5, "maximum": 1}, r"minimum \(5\)"),
        ({"not": {"type": "string"}}, "'not'"),
        ({"properties": {"not": {"items": {"contains": {}}}}}, "'contains'"),
        ({"anyOf": [{"enum": [{"not": 1}]}, {"if": {}}]}, "'if'"),
        ({"propertyNames": {}, "dependentRequired": {}}, "'dependentRequired', 'propertyNames'"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
        ({"minProperties": 1, "properties": {"a": {}, "b": {}, "c": {}}}, "maxProperties"),
        ({"const": {1}}, "no JSON"),
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_followed_is_refused_by_name(
    compiler: GrammarCompiler, schema: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidRequestError, match=named) as caught:
        compiler.compile(SamplingParams(json_schema=schema))
    assert caught.value.param == "json_schema"
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"json_schema": {}, "grammar": 'root ::= "a"'}, "grammar"),
        ({"json_schema": {}, "ignore_eos": True}, "ignore_eos"),
        ({"grammar": 'root ::= "a"', "ignore_eos": True}, "ignore_eos"),
    ],
    ids=str,
)
def test_what_excludes_each_other_is_refused(
    compiler: GrammarCompiler, params: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        compiler.compile(SamplingParams(**params))
    assert caught.value.param == param


HOSTILE: list[dict[str, Any]] = [
    {"json_schema": schema}
    for schema in (
        nested(15),
        chain(300),
        chain(1600),
        {"enum": [f"value {at}" for at in range(3000)]},
        {"enum": ["x" * 60_000]},
        {"type": "string", "maxLength": 10**9},
        {"type": "string", "minLength": 10**9, "maxLength": 10**9},
        {"type": "array", "minItems": 10**9},
        {"type": "array", "maxItems": 10**9, "items": NULL},
        {"anyOf": [{"type": "array", "maxItems": 1e300}]},
        {"type": "array", "minItems": 1000, "items": {"type": "array", "minItems": 1000}},
        {"type": "array", "maxItems": 10_000, "items": {"type": "array", "maxItems": 10_000}},
        {"prefixItems": [{"maxItems": 10_000, "items": {"const": at}} for at in range(5)]},
        {"prefixItems": [{"maxItems": 10_000, "items": {"const": at}} for at in range(40)]},
        {"minProperties": 10**9},
        {"type": "string", "pattern": "^(((a*)*)*)*$"},
        {"type": "string", "pattern": "(" * 500 + "a" + ")" * 500},
        {"type": "string", "pattern": "(" * 30_000},
        {"type": "string", "pattern": "a{1000}{1000}{1000}"},
        {"type": "string", "pattern": "(((a|b){2000}c?){2000}){2000}"},
        {"type": "string", "pattern": "^((a{0,99}){0,99}){0,99}$"},
        {"type": "string", "pattern": ".*".join("ab" * 3000)},
        {"type": "string", "pattern": "|".join(f".*a.{{{at}}}b" for at in range(1000))},
        {"type": "string", "pattern": "|".join(f"a{{{at}}}b" for at in range(3000))},
        {"type": "string", "pattern": "\\p{L}{5000}"},
        {"allOf": searches(40)},
        {"$ref": "#/$defs/0", "$defs": {
            str(at): {**each, "$ref": f"#/$defs/{at + 1}"} for at, each in enumerate(searches(40))
        }},
        {"allOf": [{"properties": {"a": each}} for each in searches(40)]},
        {"patternProperties": {each["pattern"]: {} for each in searches(40)}},
        {"allOf": [{"type": "object"}] * 200},
        {"allOf": [{"type": "integer", "multipleOf": at} for at in range(2, 60)]},
        {"allOf": [{"anyOf": [{"minLength": at * k} for at in range(9)]} for k in range(9)]},
        {"anyOf": [nested(3)] * 200},
        {"oneOf": [{"minimum": at} for at in range(200)]},
        {"type": "integer", "multipleOf": 99_991},
        {"type": "integer", "multipleOf": 99_999_989},
        {"type": "number", "multipleOf": 1e-300},
        {"type": "number", "minimum": -1e300, "maximum": 1e300},
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"$ref": "#/$defs/0", "$defs": {
            str(at): {"anyOf": [{"$ref": f"#/$defs/{at + 1}"}] * 2} for at in range(30)
        }},
        {"properties": {f"p{at}": INT for at in range(1500)}},
        obj(**{f"p{at}": INT for at in range(1500)}),
    )
] + [
    {"grammar": "root ::= " + grammar}
    for grammar in (
        "(" * 3000 + '"a"' + ")" * 3000,
        '("a"*)*',
        '(("a"?){2000}){2000} | "b" root',
        '"a"{1,1000000}',
        '((("a"{2000}){2000}){2000})',
        '((("a"{2000}){2000}){2000}) | "(" root ")"',
        " | ".join(f'"{at}"' for at in range(5000)),
        "r0\n" + "\n".join(f"r{at} ::= r{at + 1} r{at + 1}" for at in range(60)) + '\nr60 ::= "a"',
        "r0\n" + "\n".join(f"r{at} ::= r{at + 1}" for at in range(4000)) + '\nr4000 ::= "a"',
        'root root | "a" | ""',
        '[a-z]* [a-z]* [a-z]* [a-z]* [a-z]* root "b" | "a"',
        '.* "a" ' + ". " * 200,
        ".* " * 1900,
        ".* " * 5000,
        "[a-z] " * 19_000,
        f"({'[a-z]? ' * 100}) {{200}}",
    )
]  # fmt: skip


@pytest.mark.reliability("S-18")
@pytest.mark.parametrize("params", HOSTILE, ids=lambda each: str(each)[:60])
def test_a_hostile_schema_is_refused_or_followed_soon(
    compiler: GrammarCompiler, params: dict[str, Any]
) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    began = time.process_time()  # What others do on the machine does not lengthen it.
    try:
        babble(compiler, SamplingParams(**params, seed=0), 20)
    except InvalidRequestError as error:
        refused = error.param in ("json_schema", "grammar")
    except EngineError as error:
        refused = "no further" in error.message
    else:
        refused = True
    assert refused
    assert time.process_time() - began < 3.0
    assert process.memory_info().rss - before < 512 << 20


def babble(compiler: GrammarCompiler, params: SamplingParams, count: int) -> None:
    vocab = compiler.vocab_size
    row = SequenceSampling(params, 0, [], vocab, compiler.compile(params))
    sampler = Sampler(vocab, CPU)
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        logits = torch.randn(1, vocab, generator=generator)
        logits[:, END] -= 20
        (token_id,) = sampler.sample(logits, [row]).token_ids
        if token_id == END:
            return
        if token_id < 0:
            raise row.failure()
        row.accept(token_id)


@pytest.mark.reliability("S-18")
def test_many_schemas_leave_nothing_behind(compiler: GrammarCompiler) -> None:
    before = psutil.Process().memory_info().rss
    for at in range(10_000):
        compiler.compile(SamplingParams(json_schema=obj(**{f"field {at}": SHORT, "b": INT})))
    assert psutil.Process().memory_info().rss - before < 256 << 20


def test_without_a_schema_nothing_is_held(compiler: GrammarCompiler) -> None:
    assert compiler.compile(SamplingParams()) is None


def token(tokenizer: Any, text: str) -> int:
    (token_id,) = tokenizer.encode(text, add_special_tokens=False)
    return int(token_id)


def matcher_of(compiler: GrammarCompiler, **params: Any) -> GrammarMatcher:
    matcher = compiler.compile(SamplingParams(**params))
    assert matcher is not None
    return matcher


def allowed(matcher: GrammarMatcher, vocab: int) -> list[int]:
    logits = torch.zeros(1, vocab)
    apply_masks(logits, [(0, matcher)])
    found: list[int] = logits[0].isfinite().nonzero().flatten().tolist()
    return found


def test_a_finished_text_can_only_end(compiler: GrammarCompiler, tokenizer: Any) -> None:
    matcher = matcher_of(compiler, grammar='root ::= "a" "b"?')
    assert allowed(matcher, 4096) == [token(tokenizer, "a"), token(tokenizer, "ab")]
    matcher.accept(token(tokenizer, "a"))
    assert not matcher.finished
    assert sorted(allowed(matcher, 4096)) == [END, token(tokenizer, "b")]
    matcher.accept(token(tokenizer, "b"))
    assert matcher.finished
    assert allowed(matcher, 4096) == [END]
    matcher.accept(END)
    assert matcher.error is None


def test_sequences_of_one_request_go_their_own_ways(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    first = matcher_of(compiler, grammar='root ::= "a" "b" | "c"')
    second = matcher_of(compiler, grammar='root ::= "a" "b" | "c"')
    first.accept(token(tokenizer, "a"))
    assert allowed(first, 4096) == [token(tokenizer, "b")]
    assert token(tokenizer, "c") in allowed(second, 4096)
    second.accept(token(tokenizer, "c"))
    assert (first.finished, second.finished) == (False, True)


def test_masks_reach_only_their_own_rows(compiler: GrammarCompiler, tokenizer: Any) -> None:
    a, c = (matcher_of(compiler, grammar=f'root ::= "{text}"') for text in "ac")
    for dtype in (torch.float32, torch.bfloat16):
        logits = torch.zeros(4, 4096, dtype=dtype)
        apply_masks(logits, [(3, a), (1, c)])
        assert logits[[0, 2]].isfinite().all()
        assert logits[3].isfinite().nonzero().flatten().tolist() == [token(tokenizer, "a")]
        assert logits[1].isfinite().nonzero().flatten().tolist() == [token(tokenizer, "c")]


@pytest.mark.parametrize("width", [4096, 4097, 4200])
def test_ids_beyond_the_tokenizer_are_never_allowed(tokenizer: Any, width: int) -> None:
    wide = GrammarCompiler(tokenizer, width, [END])
    matcher = matcher_of(wide, grammar="root ::= .*")
    found = allowed(matcher, width)
    assert max(found) < 4096
    assert len(found) > 3000


def test_every_end_token_ends(tokenizer: Any) -> None:
    compiler = GrammarCompiler(tokenizer, 4096, [0, END])
    assert allowed(matcher_of(compiler, grammar='root ::= ""'), 4096) == [0, END]


def test_a_token_that_does_not_fit_is_an_error(compiler: GrammarCompiler, tokenizer: Any) -> None:
    matcher = matcher_of(compiler, grammar='root ::= "a"')
    for _ in range(2):
        with pytest.raises(EngineError, match="no further"):
            matcher.accept(token(tokenizer, "b"))
    assert matcher.error is not None
    assert not matcher.finished
    assert allowed(matcher, 4096) == []


@pytest.mark.reliability("C-18")
def test_a_row_that_meets_a_limit_ends_alone(compiler: GrammarCompiler, tokenizer: Any) -> None:
    wide = {"anyOf": [obj([], **{f"{at}{k}": {} for k in "abcdefghijkl"}) for at in range(200)]}
    params = [
        SamplingParams(json_schema=wide, temperature=0.0),
        SamplingParams(json_schema={"type": "object"}, temperature=0.0),
        SamplingParams(temperature=0.0),
    ]
    rows = [SequenceSampling(each, 0, [], 4096, compiler.compile(each)) for each in params]
    sampler = Sampler(4096, CPU)
    logits = torch.zeros(3, 4096)
    logits[:, token(tokenizer, "{")] = 5
    failed = ""
    for _ in range(3):
        ids = sampler.sample(logits, rows).token_ids
        assert min(ids[1:]) >= 0
        try:
            if ids[0] < 0:
                raise rows[0].failure()
            for row, token_id in zip(rows, ids, strict=True):
                row.accept(token_id)
        except EngineError as error:
            failed = error.message
            break
    assert "no further" in failed
    assert sampler.sample(logits, rows).token_ids[0] == -1
    assert rows[0].failure().message == failed


@pytest.mark.parametrize("kind", ["gpt2", "llama", "tiktoken"])
def test_other_tokenizers_are_held_too(kind: str, tmp_path: Path) -> None:
    tokenizer = hf_tokenizers.KINDS[kind](tmp_path)
    end = tokenizer.eos_token_id
    compiler = GrammarCompiler(tokenizer, len(tokenizer), [end])
    schema = obj(name=SHORT, age=INT, tag={"enum": ["日本", "é"]})
    texts = Babbler(compiler, tokenizer, end).say(
        SamplingParams(json_schema=schema, seed=1), 8, 120
    )
    ended = [text for text in texts if text is not None]
    assert len(ended) >= 2
    for text in ended:
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("sentencepiece_in_python", r"no tokenizer\.json"),
        ("bytes_in_python", r"no tokenizer\.json"),
        ("t5", "llguidance cannot read"),
        ("words", "llguidance cannot read"),
    ],
)
@pytest.mark.parametrize("param", ["json_schema", "grammar"])
def test_a_tokenizer_without_bytes_is_refused(
    kind: str, reason: str, param: str, tmp_path: Path
) -> None:
    compiler = GrammarCompiler(hf_tokenizers.KINDS[kind](tmp_path), 300, [1])
    params: dict[str, Any] = {"json_schema": {}, "grammar": 'root ::= "a"'}
    with pytest.raises(UnsupportedError, match=reason) as caught:
        compiler.compile(SamplingParams(**{param: params[param]}))
    assert caught.value.param == param
    assert compiler.compile(SamplingParams()) is None


def test_a_model_without_end_tokens_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UnsupportedError, match="no end token"):
        GrammarCompiler(tokenizer, 4096, []).compile(SamplingParams(json_schema={}))
