"""Model files that are not what they say, in a real runner: the reader stands before the engine."""

from __future__ import annotations

import asyncio
import re
import signal
import struct
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from openllm.errors import EngineStartError, ModelFileError
from openllm.fleet import Fleet
from openllm.models.gguf import read_header
from openllm.models.locate import find_local
from openllm.models.ref import parse_ref
from openllm.types import LocalModel
from tests.contract.subject import write_random_llama
from tests.e2e.conftest import ask, spawned, unstarted
from tests.unit.models.gguf_bytes import UINT32, build, right_metadata

pytestmark = pytest.mark.anyio


def hostile_files() -> dict[str, bytes]:
    """Return files that the server's own check would have refused before it started a runner."""
    right = bytes(build().content)
    model = find_local(parse_ref("demo"))
    assert model is not None
    demo = Path(model.path).read_bytes()
    few = right_metadata() | {"llama.context_length": (UINT32, 1)}
    return {
        "truncated": demo[:-4096],
        "tensors": right[:8] + struct.pack("<Q", 2**63) + right[16:],
        "keys": right[:16] + struct.pack("<Q", 2**64 - 1) + right[24:],
        "context": bytes(build(few).content),
    }


@pytest.mark.reliability("S-23")
@pytest.mark.parametrize("name", list(hostile_files()))
async def test_the_runner_reads_a_file_before_llama_cpp_is_loaded(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(hostile_files()[name])
    async with unstarted(LocalModel(name="m", path=str(path), format="gguf")) as runner:
        with pytest.raises(ModelFileError, match=r"m\.gguf (is|has|says)"):
            await asyncio.wait_for(runner.start(), 60)
        loaded = {mapped.path for mapped in psutil.Process(runner.pid).memory_maps()}
        assert not any("xllamacpp" in each or each == str(path) for each in loaded)


@pytest.mark.reliability("S-23")
async def test_a_file_that_makes_llama_cpp_abort_ends_its_runner_only(
    scripted: Callable[..., LocalModel], tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    write_random_llama(path)
    token = struct.pack("<Q", 2)
    content = path.read_bytes()
    assert token + b"ae" in content
    # Not "a" to the reader, but to llama.cpp, for which a text ends at the first NUL.
    path.write_bytes(content.replace(token + b"ae", token + b"a\0", 1))
    read_header(path)
    fleet = Fleet([scripted("good"), LocalModel(name="m", path=str(path), format="gguf")])
    try:
        failures = await asyncio.wait_for(fleet.start(), 60)
        assert set(failures) == {"m"}
        assert re.fullmatch(
            r"the runner of model 'm' was killed by signal 6 \(SIGABRT\) while loading"
            rf" {re.escape(repr(str(path)))}; the last line that it wrote: .*GGML_ASSERT.*failed",
            failures["m"].message,
        )
        assert fleet.status("m").state == "failed"
        async with aclosing(fleet.generate("good", ask("x"))) as chunks:
            assert "".join([chunk.text async for chunk in chunks]) == "You said: x"
    finally:
        await fleet.close()


@pytest.mark.reliability("S-23")
async def test_a_runner_that_hangs_while_loading_can_be_given_up(
    scripted: Callable[..., LocalModel],
) -> None:
    async with unstarted(scripted(load_seconds=120)) as runner:
        starting = asyncio.create_task(runner.start())
        child = await spawned(runner)
        child.send_signal(signal.SIGSTOP)  # As a native call that never gives the interpreter back.
        await asyncio.wait_for(runner.close(), 60)
        assert not child.is_running()
        with pytest.raises(EngineStartError, match="while loading"):
            await starting
