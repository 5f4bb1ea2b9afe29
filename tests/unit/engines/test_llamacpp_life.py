"""Starting, what is reachable from outside, embeddings, and the end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from array import array
from contextlib import suppress
from pathlib import Path

import pytest

from openllm.config.model import LoadOptions
from openllm.engines import llamacpp_load
from openllm.engines.llamacpp_engine import LlamaCppEngine
from openllm.engines.llamacpp_load import common_params, gguf_number
from openllm.errors import (
    ContextLengthError,
    EngineNotInstalledError,
    EngineStartError,
    EngineUnavailableError,
    InvalidRequestError,
    UnsupportedError,
)
from openllm.types import LocalModel
from tests.unit.engines.llamas import greedy, started

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]


def local(path: Path) -> LocalModel:
    return LocalModel(name="x", path=str(path), format="gguf")


async def test_capabilities_are_those_of_the_loaded_model(llama: LlamaCppEngine) -> None:
    offered = llama.capabilities
    assert (offered.engine, offered.context_length, offered.max_concurrency) == (
        "llama.cpp",
        512,
        4,
    )
    assert (offered.max_embedding_tokens, offered.structured_output) == (512, True)
    assert offered.engine_version[0].isdigit()
    assert await llama.health()


async def test_the_context_is_the_models_own_by_default(tiny_llama: LocalModel) -> None:
    async with started(tiny_llama, context_length=None, max_concurrency=2) as llama:
        assert llama.capabilities.context_length == 2048


@pytest.mark.parametrize(
    ("usable", "asked", "threads"),
    [(16.0, None, -1), (1.5, None, 2), (0.5, None, 1), (4.0, 12, 12), (16.0, 3, 3)],
)
def test_no_more_threads_than_cores_that_may_be_used(
    tiny_llama: LocalModel,
    monkeypatch: pytest.MonkeyPatch,
    usable: float,
    asked: int | None,
    threads: int,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(llamacpp_load, "usable_cores", lambda: usable)
    params = common_params(tiny_llama, LoadOptions(threads=asked))
    assert params.cpuparams.n_threads == params.cpuparams_batch.n_threads == threads


@pytest.mark.spec("S4-09")
async def test_a_context_beyond_the_models_own_is_cut_with_a_warning(
    tiny_llama: LocalModel, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(tiny_llama, context_length=10**6, max_concurrency=1) as llama:
        assert llama.capabilities.context_length == 2048
    assert "1000000" in caplog.text
    assert "2048" in caplog.text


async def test_a_context_is_not_rounded_up(tiny_llama: LocalModel) -> None:
    async with started(tiny_llama, context_length=100) as llama:
        assert llama.capabilities.context_length == 100
        assert (await greedy(llama, "Hello", 1000, ignore_eos=True)).usage.total_tokens == 100
        with pytest.raises(ContextLengthError):
            await llama.embed([tuple([40] * 101)])


def test_numbers_are_found_in_the_header(tiny_llama: LocalModel) -> None:
    assert gguf_number(tiny_llama.path, "context_length") == 2048
    assert gguf_number(tiny_llama.path, "pooling_type") is None


def broken_files(folder: Path, whole: bytes) -> dict[Path, str]:
    """Write files that cannot be loaded; return what is said of each."""
    name = b"\x05\x00\x00\x00\x00\x00\x00\x00"  # Length of "llama", before it.
    contents = {
        "text": (b"not a model", "no GGUF file"),
        "junk": (b"GGUFjunkjunkjunkjunk", "version|magic|header"),
        "cut": (whole[: len(whole) // 2], "corrupted|incomplete|bounds"),
        "other": (
            whole.replace(name + b"llama", name + b"bogus", 1),
            "unknown model architecture: 'bogus'",
        ),
    }
    for stem, (content, _) in contents.items():
        (folder / f"{stem}.gguf").write_bytes(content)
    reasons = {folder / f"{stem}.gguf": reason for stem, (_, reason) in contents.items()}
    return reasons | {folder / "missing.gguf": "No such file"}


@pytest.mark.reliability("F-13")
def test_files_that_cannot_be_loaded_say_why(
    tiny_llama: LocalModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def start(path: Path, reason: str) -> None:
        engine = LlamaCppEngine(local(path), LoadOptions(max_concurrency=1))
        with pytest.raises(EngineStartError, match=reason) as caught:
            await engine.start()
        assert str(path) in caught.value.message
        assert not await engine.health()
        await engine.close()

    for path, reason in broken_files(tmp_path, Path(tiny_llama.path).read_bytes()).items():
        asyncio.run(start(path, reason))
    assert capfd.readouterr() == ("", "")


async def test_a_missing_package_says_what_to_install(
    tiny_llama: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(EngineNotInstalledError, match="pip install xllamacpp"):
        await LlamaCppEngine(tiny_llama, LoadOptions()).start()


@pytest.mark.reliability("S-25")
async def test_the_listener_is_a_private_socket_that_asks_for_a_secret(
    tiny_llama: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        await check_listener(tiny_llama, folder)


async def check_listener(model: LocalModel, folder: str) -> None:
    others = inet_listeners()
    async with started(model) as llama:
        native = llama._started.socket  # type: ignore[union-attr]
        assert os.listdir(folder) == []  # It has no name that another process could open.
        assert mode(native.path) == 0o600
        assert inet_listeners() <= others
        for head in ("", "Authorization: Bearer wrong\r\n", f"X-Api-Key: {native.secret[:-1]}\r\n"):
            for target in ("/tokenize", "/completion", "/slots", "/props"):
                assert b" 401 " in await ask(native.path, target, head)
        assert native.secret not in repr(llama.capabilities)


def mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


async def ask(path: str, target: str, head: str) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    body = '{"content":"x","prompt":"x"}'
    method = "POST" if target in ("/tokenize", "/completion") else "GET"
    writer.write(
        f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    try:
        return (await reader.read()).split(b"\r\n")[0]
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def inet_listeners() -> set[int]:
    """Return this process's file descriptors that listen on TCP."""
    found = set()
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):
            opened = socket.socket(fileno=os.dup(int(name)))
            with opened:
                listens = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if listens and opened.family != socket.AF_UNIX:
                    found.add(int(name))
    return found


@pytest.mark.reliability("S-36")
async def test_llama_cpp_says_nothing_of_requests(
    tiny_llama: LocalModel, capfd: pytest.CaptureFixture[str]
) -> None:
    async with started(tiny_llama) as llama:
        await greedy(llama, "a canary in the prompt")
        for bad in ({"json_schema": {"type": "canary"}}, {"prompt": (40,) * 600}):
            with pytest.raises(InvalidRequestError):
                await greedy(llama, **{"prompt": "x", **bad})  # type: ignore[arg-type]
    assert capfd.readouterr() == ("", "")


@pytest.mark.reliability("C-21")
async def test_embeddings_are_of_unit_length_and_independent(llama: LlamaCppEngine) -> None:
    texts = ["Hello", "a much longer text than the first one", "x", "Hello"]
    batch = await llama.embed(texts)
    alone = await asyncio.gather(*(llama.embed([text]) for text in texts))
    assert [each.vectors[0] for each in alone] == list(batch.vectors)
    assert batch.vectors[0] == batch.vectors[3] != batch.vectors[1]
    for vector in batch.vectors:
        assert sum(value * value for value in array("f", vector)) == pytest.approx(1, abs=1e-3)
    ids = [tuple(await llama.tokenize(text, special=True)) for text in texts]
    assert (await llama.embed(ids)).vectors == batch.vectors
    assert batch.prompt_tokens == sum(map(len, ids))


async def test_an_abandoned_embedding_does_not_meet_the_next(llama: LlamaCppEngine) -> None:
    long = tuple([40, 41, 42] * 150)
    expected = (await llama.embed([long])).vectors
    for _ in range(20):
        task = asyncio.create_task(llama.embed([tuple([50] * 300)]))
        await asyncio.sleep(0.001)
        task.cancel()
        assert (await llama.embed([long])).vectors == expected
        await asyncio.wait([task])


@pytest.mark.reliability("C-21")
async def test_inputs_that_cannot_be_embedded_are_refused(tiny_llama: LocalModel) -> None:
    async with started(tiny_llama, context_length=1024, max_concurrency=2) as llama:
        assert llama.capabilities.max_embedding_tokens == 512
        assert (await llama.embed([(40,) * 512])).prompt_tokens == 512
        with pytest.raises(ContextLengthError, match=r"513 tokens.*at most 512") as caught:
            await llama.embed(["ok", (40,) * 513])
        assert caught.value.param == "input"
        with pytest.raises(InvalidRequestError):
            await llama.embed([""])
        assert llama.active == 0
    async with started(tiny_llama, embeddings=False) as llama:
        assert llama.capabilities.max_embedding_tokens == 0
        with pytest.raises(UnsupportedError):
            await llama.embed(["a"])
        assert (await greedy(llama)).ids


LOAD_AND_CLOSE = """
import asyncio, gc, os, sys
from openllm.types import LocalModel
from tests.unit.engines.llamas import greedy, started

async def main():
    model = LocalModel(name="tiny", path=sys.argv[1], format="gguf")
    for _ in range(8):
        async with started(model, context_length=2048, max_concurrency=64) as llama:
            await greedy(llama)
            await llama.close()
            await llama.close()
        gc.collect()
        with open("/proc/self/statm") as statm:
            print(int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))

asyncio.run(main())
"""


def test_closing_gives_the_memory_back(tiny_llama: LocalModel) -> None:
    # In a process of its own: what other tests hold and free would be counted too.
    done = subprocess.run(
        [sys.executable, "-c", LOAD_AND_CLOSE, tiny_llama.path],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    sizes = [int(line) for line in done.stdout.split()]
    assert len(sizes) == 8
    # Some megabytes stay with the allocator each time; a model that stays is 300 of them.
    assert min(sizes[5:]) - min(sizes[1:5]) < 64 << 20


ABORT = """
import asyncio, sys
from openllm.types import LocalModel
from tests.unit.engines.llamas import started

async def main():
    async with started(LocalModel(name="m", path=sys.argv[1], format="gguf")):
        print("loaded")

asyncio.run(main())
"""


@pytest.mark.reliability("S-23")
def test_a_process_that_llama_cpp_aborts_is_dead_at_once(
    tiny_llama: LocalModel, tmp_path: Path
) -> None:
    """More layers than llama.cpp has room for; our reader, which does not run here, refuses it."""
    content = Path(tiny_llama.path).read_bytes()
    at = content.index(b"llama.block_count") + len("llama.block_count") + 4
    path, debugger = tmp_path / "m.gguf", tmp_path / "gdb"
    path.write_bytes(content[:at] + (70_000).to_bytes(4, "little") + content[at + 4 :])
    debugger.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\nexec sleep 60\n")
    debugger.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", ABORT, str(path)], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, timeout=50,
    )  # fmt: skip
    assert done.returncode == -signal.SIGABRT, done.stderr
    assert not (tmp_path / "asked").exists()


async def test_an_engine_that_was_not_started_says_so(tiny_llama: LocalModel) -> None:
    engine = LlamaCppEngine(tiny_llama, LoadOptions())
    assert not await engine.health()
    with pytest.raises(EngineUnavailableError):
        await greedy(engine)
    await engine.close()
