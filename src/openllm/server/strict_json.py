"""JSON, strictly: what the format leaves open is closed here.

No duplicate names, no NUL, no NaN, no byte order mark, no lone surrogate; depth and counts are
bounded. The counts are taken on the raw bytes before any object is built, so that eight hostile
megabytes cost no more than eight honest ones. Knows nothing of HTTP.
"""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

import orjson

from openllm.errors import InvalidRequestError

MAX_DEPTH = 64
MAX_STRINGS = 100_000
MAX_ESCAPES = 1_000_000
MAX_CONTAINERS = 50_000
MAX_VALUES = 500_000
MAX_FIELDS = 10_000
"""Fields of one object."""

# No call on raw bytes takes longer than some milliseconds, as each holds up every other thread.
_WINDOW = 512 * 1024
# Looking for the name of a duplicate field is worth it up to this size.
_NAMED_BYTES = 32 * 1024
_NOT_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))
_STEP = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}


def parse_object(raw: bytes) -> dict[str, Any]:
    """Parse one JSON object.

    Raises:
        InvalidRequestError: It is anything else.
    """
    keys = _check_limits(raw)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _not_json(raw, error) from None
    if not isinstance(value, dict):
        raise InvalidRequestError("the request body must be a JSON object", code="invalid_json")
    if _count_keys(value) != keys:
        raise InvalidRequestError(
            f"the request body names a field twice{_duplicate(raw)}; name it once",
            code="invalid_json",
        )
    return value


def _check_limits(raw: bytes) -> int:
    """Bound what parsing `raw` can cost; return how many names of fields it holds."""
    outside = _outside_strings(raw)
    if _count(outside, b",", MAX_VALUES) > MAX_VALUES:
        raise _too_many(f"{MAX_VALUES} values")
    brackets = outside.translate(None, _NOT_BRACKETS)
    if len(brackets) > 2 * MAX_CONTAINERS:
        raise _too_many(f"{MAX_CONTAINERS} objects and arrays")
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise InvalidRequestError(
            f"the request body is nested deeper than {MAX_DEPTH} levels", code="invalid_json"
        )
    return outside.count(b":")


def _outside_strings(raw: bytes) -> bytes:
    """Return what stands outside of strings, if `raw` is JSON at all."""
    if b"\\" in raw:
        if _count(raw, b"\\", MAX_ESCAPES) > MAX_ESCAPES:
            raise _too_many(f"{MAX_ESCAPES} escaped characters; send them as UTF-8")
        raw = raw.replace(b"\\\\", b"")  # Now a backslash left over escapes what follows it.
        if b"\\u0000" in raw:
            raise InvalidRequestError(
                "the request body holds the character NUL (\\u0000); remove it", code="invalid_json"
            )
        raw = raw.replace(b'\\"', b"")
    if _count(raw, b'"', 2 * MAX_STRINGS) > 2 * MAX_STRINGS:
        raise _too_many(f"{MAX_STRINGS} strings")
    return b"".join(raw.split(b'"')[::2])


def _count(raw: bytes, byte: bytes, limit: int) -> int:
    """Return how often `byte` occurs; once over `limit` it does not matter how far."""
    total = 0
    for start in range(0, len(raw), _WINDOW):
        total += raw.count(byte, start, start + _WINDOW)
        if total > limit:
            break
    return total


def _too_many(what: str) -> InvalidRequestError:
    return InvalidRequestError(f"the request body holds more than {what}", code="invalid_json")


def _not_json(raw: bytes, error: orjson.JSONDecodeError) -> InvalidRequestError:
    if not raw.strip():
        reason = "it is empty"
    elif raw.startswith(b"\xef\xbb\xbf"):
        reason = "it begins with a byte order mark; leave that out"
    elif not _is_utf8(raw):
        reason = "it is not UTF-8"
    else:
        reason = str(error)
    return InvalidRequestError(f"the request body is not JSON: {reason}", code="invalid_json")


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _count_keys(value: Any) -> int:
    keys = 0
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, dict):
            if len(item) > MAX_FIELDS:
                raise _too_many(f"{MAX_FIELDS} fields in one object")
            keys += len(item)
            item = item.values()
        rest += [each for each in item if isinstance(each, (dict, list))]
    return keys


def _duplicate(raw: bytes) -> str:
    """Name the field, if finding it is cheap."""
    if len(raw) > _NAMED_BYTES:
        return ""
    found: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                found.append(name)
            seen.add(name)

    json.loads(raw, object_pairs_hook=look)
    return f", {json.dumps(found[0][:60])}" if found else ""
