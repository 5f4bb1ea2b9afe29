"""Whatever stands in a GGUF header, the reader answers quickly, in little memory, and calmly."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openllm.errors import ModelFileError
from openllm.models.facts import ModelFacts, facts_of
from openllm.models.gguf import GgufHeader, read_header
from openllm.types import LocalModel
from tests.unit.models.gguf_bytes import ARRAY, STRING, UINT64, build, right_metadata

FILE = build(right_metadata() | {"llama.feed_forward_length": (ARRAY, (UINT64, [64, 128]))})
MAGIC = (0, 4)
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
    started = time.process_time()
    try:
        return read_header(path)
    except ModelFileError as error:
        return error
    finally:
        assert time.process_time() - started < 1.0


def facts_outcome(path: Path) -> ModelFacts | ModelFileError | None:
    """Read what `openllm fit` reads; any other exception than ModelFileError fails the test."""
    try:
        return facts_of(LocalModel(name="m", path=str(path), format="gguf"))
    except ModelFileError as error:
        return error


@pytest.mark.reliability("S-23")
@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("value", HOSTILE)
def test_every_field_with_a_hostile_value_is_rejected_or_read(tmp_path: Path, value: int) -> None:
    path, rejected = tmp_path / "m.gguf", 0
    fields = [MAGIC, *FILE.integers, *FILE.floats]
    for offset, width in fields:
        content = bytearray(FILE.content)
        content[offset : offset + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
        refused = isinstance(outcome(path, content), ModelFileError)
        rejected += refused
        if isinstance(facts_outcome(path), ModelFileError):
            assert refused, offset  # Nothing is served that could not be judged.
    assert rejected > len(fields) // 4


@pytest.mark.reliability("S-23")
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


@pytest.mark.reliability("S-23")
@pytest.mark.usefixtures("memory")
def test_header_that_goes_on_for_gigabytes_is_given_up_soon(tmp_path: Path) -> None:
    content = bytearray(b"GGUF" + struct.pack("<IQQ", 3, 1, 1))
    content += struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", ARRAY, STRING, 1000)
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with path.open("r+b") as file:
        for index in range(1000):
            file.seek(len(content) + index * (8 + 2**24))
            file.write(struct.pack("<Q", 2**24))
        file.truncate(2**35)
    started = time.process_time()
    with pytest.raises(ModelFileError, match="has a header of more than 268435456 bytes"):
        read_header(path)
    assert time.process_time() - started < 1.0


@pytest.mark.reliability("S-23")
def test_a_damaged_file_is_refused_before_an_engine_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(FILE.content[:-64])
    program = (
        "import sys, openllm\n"
        f"llm = openllm.LLM({str(path)!r})\n"
        "try:\n    llm.sync_generate('a')\n"
        "except openllm.errors.ModelFileError as error:\n"
        "    print(error.message, 'xllamacpp' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert "is truncated" in done.stdout
    assert done.stdout.strip().endswith("False")
