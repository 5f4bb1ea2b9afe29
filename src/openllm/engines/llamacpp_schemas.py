"""Which JSON schemas llama.cpp can follow.

When it cannot compile a schema it writes a line to its log and generates without it; it does the
same when a schema turns out too large in the middle of a text. So every request that is held to
one carries a bias that makes a token win which no such text contains: if that token comes, the
schema was dropped, and `llamacpp_stream` ends the request. Each schema is tried once for one token
before its first use, so that none waits for a long prompt to be read only to be refused.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from openllm.engines.json_schemas import schema_error
from openllm.engines.llamacpp_errors import generation_error
from openllm.engines.llamacpp_request import LoadedModel, encode, generation_body
from openllm.engines.llamacpp_runs import Runs
from openllm.errors import InvalidRequestError
from openllm.types import SamplingParams

REMEMBERED = 1024

# What llguidance refuses, for messages only: whether it does is found by trying.
_UNKNOWN = frozenset(
    (
        *("contains", "minContains", "maxContains", "uniqueItems", "unevaluatedItems"),
        *("dependencies", "dependentRequired", "dependentSchemas"),
        *("propertyNames", "unevaluatedProperties"),
        *("not", "if", "then", "else", "$dynamicRef", "$recursiveRef"),
    )
)
_PARTLY = ("oneOf", "allOf", "minProperties", "maxProperties", "patternProperties", "pattern")
_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")
_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
_NAMED = frozenset(("properties", "patternProperties", "$defs", "definitions"))
_DATA = frozenset(("enum", "const", "default", "example", "examples"))

# A pattern's escaped signs, and its sets of signs: of one, and of several.
_PATTERN_PART = re.compile(r"(\\.)|\[([^\\^\]]|\\.)\]|\[(?:\\.|[^\\\]])*(?:\]|\\?\Z)", re.DOTALL)
_ESCAPED_IN_JSON = re.compile(
    r'["\x00-\x1f\x7f]|\\(?:[\\nrtfv0]|(?:x|u00)(?:[01][0-9a-f]|22|5c|7f))', re.IGNORECASE
)


class SchemaChecks:
    """Tries schemas and remembers the outcome."""

    def __init__(self, runs: Runs, model: LoadedModel) -> None:
        self._runs = runs
        self._model = model
        self._known: OrderedDict[bytes, bool] = OrderedDict()

    async def check(self, schema: dict[str, Any]) -> None:
        """Wait for a slot and try a schema, the first time it is seen.

        Raises:
            InvalidRequestError: Output cannot be held to it.
        """
        check_patterns(schema)
        key = sha256(encode(schema)).digest()
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = await self._try(schema)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        if not known:
            raise schema_error(culprit(schema))

    async def _try(self, schema: dict[str, Any]) -> bool:
        params = SamplingParams(max_tokens=1, temperature=0.0, json_schema=schema)
        body = generation_body((0,), params, self._model) | {"cache_prompt": False}
        generation = await self._runs.start(
            encode(body),
            params,
            lambda answer: generation_error(answer.error, self._model),
            never=self._model.never_in_json,
        )
        try:
            await generation.next()
        except InvalidRequestError:
            return False
        finally:
            generation.cancelled = True
        return True


def check_patterns(schema: dict[str, Any]) -> None:
    """Raise `InvalidRequestError` for a pattern that llguidance gets wrong (xllamacpp 2026.10).

    It forgets what follows a literal sign that JSON writes as an escape; in a set of several
    signs it does not.
    """
    for name, value in _keywords(schema):
        named = list(value) if name == "patternProperties" and isinstance(value, dict) else []
        for pattern in [value] if name == "pattern" else named:
            literal = _PATTERN_PART.sub(lambda part: part[1] or part[2] or "", str(pattern))
            if sign := _ESCAPED_IN_JSON.search(literal):
                raise schema_error(
                    f"the {name} {_short(pattern)} holds {sign[0]!r}, which JSON escapes; leave it "
                    "out or use an enum"
                )


def culprit(schema: dict[str, Any]) -> str:
    """Return what may be wrong with a refused schema, and what helps, in words."""
    if plain := _unsupported(schema):
        return f"{plain} is not supported; remove it"
    used = {name for name, _ in _keywords(schema)}
    names = ", ".join(name for name in _PARTLY if name in used)
    return (
        f"it contradicts itself, or {names or 'a reference in it'} cannot be used so; simplify it"
    )


def _unsupported(schema: dict[str, Any]) -> str | None:
    for name, value in _keywords(schema):
        if name in _UNKNOWN:
            return f"the keyword {name!r}"
        if name == "format" and value not in _FORMATS:
            return f"the format {_short(value)}"
        if name == "type" and not isinstance(value, list) and value not in _TYPES:
            return f"the type {_short(value)}"
        if name == "$ref" and not str(value).startswith("#"):
            return f"the reference {_short(value)} to another schema"
    return None


def _keywords(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the keywords of a schema and of those in it, with their values."""
    remaining: list[Any] = [schema]
    while remaining:
        part = remaining.pop()
        if isinstance(part, list):
            remaining += part
        elif isinstance(part, dict):
            yield from part.items()
            for name, value in part.items():
                if name in _NAMED and isinstance(value, dict):
                    remaining += value.values()
                elif name not in _DATA:
                    remaining.append(value)


def _short(value: object) -> str:
    return repr(value)[:80]
