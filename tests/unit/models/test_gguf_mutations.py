"""Whatever stands in a GGUF header, the reader answers quickly, in little memory, and calmly."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openllm.errors import ModelFileError
from openllm.models.gguf import GgufHeader, read_header
from tests.unit.models.gguf_bytes import build

FILE = build()
HOSTILE = (0, 1, 2**31, 2**63, 2**64 - 1)
MAX_BYTES = 64 * 1024 * 1024


@pytest.fixture
def memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MAX_BYTES


def outcome(path: Path, content: bytes) -> GgufHeader | ModelFileError:
    """Read `content`; any other exception than ModelFileError fails the test."""
    path.write_bytes(content)
    started = time.perf_counter()
    try:
        return read_header(path)
    except ModelFileError as error:
        return error
    finally:
        assert time.perf_counter() - started < 1.0


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("value", HOSTILE)
def test_every_integer_field_with_a_hostile_value(tmp_path: Path, value: int) -> None:
    rejected = 0
    for offset, width in FILE.integers:
        content = bytearray(FILE.content)
        content[offset : offset + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
        rejected += isinstance(outcome(tmp_path / "m.gguf", content), ModelFileError)
    assert rejected > len(FILE.integers) // 4


@pytest.mark.usefixtures("memory")
def test_truncation_anywhere_is_rejected(tmp_path: Path) -> None:
    assert isinstance(outcome(tmp_path / "m.gguf", FILE.content), GgufHeader)
    for size in range(len(FILE.content)):
        result = outcome(tmp_path / "m.gguf", FILE.content[:size])
        assert isinstance(result, ModelFileError), size


@given(st.lists(st.tuples(st.integers(0, len(FILE.content) - 1), st.binary(max_size=9))))
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_random_damage(tmp_path: Path, damage: list[tuple[int, bytes]]) -> None:
    content = bytearray(FILE.content)
    for offset, piece in damage:
        content[offset : offset + len(piece)] = piece
    outcome(tmp_path / "m.gguf", content)


@given(st.binary(max_size=400))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_noise_after_the_magic(tmp_path: Path, noise: bytes) -> None:
    result = outcome(tmp_path / "m.gguf", b"GGUF\x03\x00\x00\x00" + noise)
    assert isinstance(result, ModelFileError)
