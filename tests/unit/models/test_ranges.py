"""Facts of models on a hub: only headers are fetched, and whatever a server sends is bounded."""

from __future__ import annotations

import contextlib
import json
import random
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openllm.config.download import DownloadOptions
from openllm.errors import ModelFetchError, ModelFileError, OpenLLMError
from openllm.models.facts import ModelFacts, facts_by_ranges, facts_of, facts_of_remote
from openllm.models.hub import inspect
from openllm.models.hub_files import wanted
from openllm.models.ranges import HEAD_BYTES, MAX_FILES, PARALLEL, RangeFile
from openllm.models.ref import parse_ref
from openllm.types import LocalModel
from tests.hub_server import HubServer
from tests.unit.model_folders import packed, safetensors
from tests.unit.models.gguf_bytes import ARRAY, STRING, build, right_metadata

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 64,
    "torch_dtype": "float32",
}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = {"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}
LARGE = 4 << 20


def repository() -> dict[str, bytes]:
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors.index.json": json.dumps(INDEX).encode(),
        SHARDS[0]: safetensors({"a": ("F32", (LARGE // 4,))}),
        SHARDS[1]: safetensors({"b": ("BF16", (LARGE // 2,))}),
        "tokenizer.json": bytes(1 << 20),
    }


class Server:
    """Gives ranges of files, and remembers which."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[tuple[str, int, int]] = []

    def facts(self) -> ModelFacts:
        sizes = {name: len(content) for name, content in self.files.items()}
        return facts_by_ranges("org/tiny", sizes, self.read)

    def read(self, name: str, start: int, length: int) -> bytes:
        self.asked.append((name, start, length))
        return self.files[name][start : start + length]


def local(folder: Path, files: dict[str, bytes]) -> ModelFacts | None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return facts_of(LocalModel(name="m", path=str(folder), format="safetensors"))


def gguf(tokens: int = 60_000) -> bytes:
    texts = [f"token{index:06d}" for index in range(tokens)]
    metadata = right_metadata() | {"tokenizer.ggml.tokens": (ARRAY, (STRING, texts))}
    del metadata["tokenizer.ggml.scores"], metadata["tokenizer.ggml.token_type"]
    tensors = (("a", (32, LARGE // 8), 0, 0),)
    return bytes(build(metadata, tensors, data_size=LARGE * 16).content)


def test_shards_are_judged_by_their_headers(tmp_path: Path) -> None:
    server = Server(repository())
    assert server.facts() == local(tmp_path, server.files)
    fetched = sum(length for _, _, length in server.asked)
    assert fetched < 2 * HEAD_BYTES + 10_000
    assert len(server.asked) == len(SHARDS) + 2


def shards(count: int) -> dict[str, bytes]:
    names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    files = {name: safetensors({name: ("F32", (1,))}) for name in names}
    index = {"weight_map": {name: name for name in names}}
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors.index.json": json.dumps(index).encode(),
        **files,
    }


def test_the_headers_of_many_shards_are_fetched_side_by_side_but_not_all_at_once() -> None:
    server = Server(shards(40))
    running: list[int] = []
    busy, lock = 0, threading.Lock()

    def read(name: str, start: int, length: int) -> bytes:
        nonlocal busy
        with lock:
            busy += 1
            running.append(busy)
        time.sleep(0.005)
        with lock:
            busy -= 1
        return server.read(name, start, length)

    sizes = {name: len(content) for name, content in server.files.items()}
    assert facts_by_ranges("org/tiny", sizes, read).weight_bytes == 40 * 4
    assert 1 < max(running) <= PARALLEL


def test_more_shards_than_any_model_has_are_refused() -> None:
    server = Server(shards(MAX_FILES + 1))
    with pytest.raises(ModelFileError, match=f"at most {MAX_FILES}"):
        server.facts()
    assert not [name for name, _, _ in server.asked if name.endswith(".safetensors")]


def test_a_header_longer_than_the_first_request_is_fetched_whole(tmp_path: Path) -> None:
    tensors = {f"layer.{index}.weight": ("F32", (1,)) for index in range(5000)}
    content = safetensors(tensors)
    server = Server({"config.json": json.dumps(CONFIG).encode(), "model.safetensors": content})
    assert len(content) > 2 * HEAD_BYTES
    assert server.facts() == local(tmp_path, server.files)
    assert len(server.asked) == 3


def test_a_gguf_header_is_read_by_ranges(tmp_path: Path) -> None:
    content = gguf()
    (tmp_path / "m.gguf").write_bytes(content)
    server = Server({"m.gguf": content})
    found = server.facts()
    assert found == facts_of(LocalModel(name="m", path=str(tmp_path / "m.gguf"), format="gguf"))
    assert sum(length for _, _, length in server.asked) <= 5 << 20 < len(content) // 10
    assert len(server.asked) <= 3


def test_all_parts_count_and_the_first_is_read() -> None:
    first = bytes(build().content)
    server = Server({"m-00002-of-00002.gguf": bytes(100), "m-00001-of-00002.gguf": first})
    assert server.facts().weight_bytes == len(first) + 100


@pytest.mark.parametrize("length", [1, 2**31, 2**63, 2**64 - 1])
def test_a_hostile_header_length_costs_no_memory(length: int) -> None:
    content = struct.pack("<Q", length) + b"{}" + bytes(100)
    server = Server({"config.json": json.dumps(CONFIG).encode(), "model.safetensors": content})
    with pytest.raises(ModelFileError, match="damaged or truncated"):
        server.facts()
    assert max(length for _, _, length in server.asked) <= HEAD_BYTES


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"a": ("F32", (1,), (0, 4)), "b": ("F32", (1,), (2, 6))}, "begins at 2, expected 4"),
        ({"a": ("F32", (1,), (0, 4)), "b": ("F32", (1,), (0, 4))}, "begins at 0, expected 4"),
        ({"a": ("F128", (1,), (0, 16))}, "unknown type 'F128'"),
        ({"a": ("f32", (1,), (0, 4))}, "unknown type 'f32'"),
        ({"a": ("F32", (2**62, 4), (0, 4))}, "not its shape's"),
        ({"a": ("F32", (2**63,), (0, 4))}, "damaged header"),
        ({"a": ("F32", (-1,), (0, 4))}, "damaged header"),
        ({"a": ("F32", (1,), (0, 2**64))}, "damaged header"),
        ({"a": ("F32", (1,), (4, 0))}, "expected 0"),
        ({"a": ("F32", (2**60,), (0, 2**62))}, "is truncated"),
    ],
)
def test_hostile_tensors(entries: dict[str, Any], says: str) -> None:
    header = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": place}
        for name, (dtype, shape, place) in entries.items()
    }
    content = packed(header, 16)
    server = Server({"config.json": json.dumps(CONFIG).encode(), "model.safetensors": content})
    with pytest.raises(ModelFileError, match=says):
        server.facts()


def test_damage_anywhere_is_refused_or_harmless() -> None:
    right = repository()
    draw = random.Random(4)
    names = [name for name in right if name != "tokenizer.json"]
    for _ in range(300):
        name = draw.choice(names)
        content = bytearray(right[name])
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(min(200, len(content)))] = draw.randrange(256)
        with contextlib.suppress(ModelFileError):
            Server(right | {name: bytes(content)}).facts()


def test_a_server_that_gives_less_than_asked_is_told_off() -> None:
    whole = bytes(build().content)
    source = RangeFile("m.gguf", len(whole), lambda _, start, length: whole[start : start + 7])
    with pytest.raises(ModelFetchError, match=r"m\.gguf gave 7 bytes of \d+"):
        source.read(100)
    assert source.read(0) == b""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def judged(text: str, hub: HubServer) -> ModelFacts:
    options = DownloadOptions(hub_endpoint=hub.url, download_retries=0)
    ref = parse_ref(text)
    remote = inspect(ref, options)
    return facts_of_remote(remote, wanted(remote, ref.file), options)


def test_a_model_on_a_hub_costs_headers_only(hub: HubServer, tmp_path: Path) -> None:
    files = repository()
    hub.add_repo("org/tiny", files)
    assert judged("org/tiny", hub) == local(tmp_path, files)
    assert hub.body_bytes < 2 * HEAD_BYTES + 10_000


def test_a_gguf_file_on_a_hub_costs_its_header_only(hub: HubServer) -> None:
    content = bytes(build(tensors=(("a", (32, LARGE // 8), 0, 0),), data_size=16 * LARGE).content)
    hub.add_repo("org/tiny", {"tiny-Q4_K_M.gguf": content})
    facts = judged("org/tiny:Q4_K_M", hub)
    assert (facts.weight_bytes, facts.context_length) == (len(content), 512)
    assert hub.body_bytes <= 1 << 20


@pytest.mark.parametrize(
    "fault",
    [
        {"ignore_range": True},
        {"refuse_range": True},
        {"status": 500},
        {"close_after": 10},
        {"gzip_bomb": True},
    ],
)
def test_a_hub_that_misbehaves_is_an_error(hub: HubServer, fault: dict[str, Any]) -> None:
    hub.add_repo("org/tiny", repository())
    for name, value in fault.items():
        setattr(hub.faults, name, value)
    with pytest.raises(OpenLLMError):
        judged("org/tiny", hub)
    assert hub.body_bytes < 3 * LARGE
