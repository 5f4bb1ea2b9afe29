"""Which JSON schemas llama.cpp can follow.

When it cannot compile a schema it writes a line to its log and generates without it. So each schema
is tried once: one token is generated under it, with a bias that makes a token win which no JSON
value begins with. If that token comes, the schema was dropped.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256
from typing import Any

from openllm.engines.llamacpp_errors import generation_error
from openllm.engines.llamacpp_request import LoadedModel, encode, generation_body
from openllm.engines.llamacpp_runs import Runs
from openllm.errors import InvalidRequestError
from openllm.types import SamplingParams

REMEMBERED = 1024
MAX_ITEMS = 10_000  # Compiling takes time and memory for each: a million 1 s, a billion all memory.
_OVERWHELMING = 1e6


class SchemaChecks:
    """Tries schemas and remembers the outcome."""

    def __init__(self, runs: Runs, model: LoadedModel, impossible: int) -> None:
        self._runs = runs
        self._model = model
        self._impossible = impossible
        self._known: OrderedDict[bytes, bool] = OrderedDict()

    async def compiles(self, schema: dict[str, Any]) -> bool:
        """Whether output can be held to the schema; waits for a slot the first time.

        Raises:
            InvalidRequestError: It counts further than `MAX_ITEMS`.
        """
        check_counts(schema)
        key = sha256(encode(schema)).digest()
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = await self._try(schema)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return known

    async def _try(self, schema: dict[str, Any]) -> bool:
        params = SamplingParams(max_tokens=1, temperature=0.0, json_schema=schema)
        body = generation_body((self._impossible,), params, self._model)
        body |= {"logit_bias": [[self._impossible, _OVERWHELMING]], "cache_prompt": False}
        generation = await self._runs.start(
            encode(body), params, lambda answer: generation_error(answer.error, self._model)
        )
        try:
            first = await generation.next()
        finally:
            generation.cancelled = True
        return first is not None and self._impossible not in first.token_ids


def check_counts(schema: dict[str, Any]) -> None:
    """Raise `InvalidRequestError` if `minItems` or `maxItems` anywhere in it is too large."""
    remaining: list[Any] = [schema]
    while remaining:
        part = remaining.pop()
        if isinstance(part, list):
            remaining += part
        elif isinstance(part, dict):
            for name in ("minItems", "maxItems"):
                count = part.get(name)
                if isinstance(count, (int, float)) and count > MAX_ITEMS:
                    raise InvalidRequestError(
                        f"{name} is {count}; it must be at most {MAX_ITEMS}",
                        param="response_format",
                    )
            remaining += part.values()
