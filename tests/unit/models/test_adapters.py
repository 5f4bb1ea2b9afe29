"""Reading LoRA adapters: what they say, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openllm.errors import ConfigurationError
from openllm.models.adapters import adapter_refs
from openllm.models.ref import ADAPTER
from openllm.types import Adapter
from tests.lora import ALPHA, RANK, find_adapters, matrices, write_gguf, write_peft

SHAPES = {
    f"model.layers.{layer}.{part}.weight": shape
    for layer in (0, 1)
    for part, shape in (("self_attn.o_proj", (8, 8)), ("mlp.down_proj", (8, 16)))
}
LORA = matrices(SHAPES, 0)
SCALE = ALPHA / RANK


@pytest.fixture
def peft(tmp_path: Path) -> Path:
    return write_peft(tmp_path / "peft", LORA)


@pytest.mark.parametrize(
    ("text", "name", "kind", "file"),
    [
        ("sql=org/name", "sql", "hub", ADAPTER),
        ("org/name@v2", "", "hub", ADAPTER),
        ("a=org/name:sub/x.gguf", "a", "hub", "sub/x.gguf"),
        ("a=org/name@v2:F16", "a", "hub", "F16"),
        ("a=https://h/x.gguf?token=1", "a", "url", "x.gguf"),
        ("https://h/x.gguf?a=b", "", "url", "x.gguf"),
        ("a=./org/name", "a", "path", ""),
        ("a=~/org/name", "a", "path", ""),
        ("a=name", "a", "path", ""),
    ],
)
@pytest.mark.spec("S0-27")
def test_where_an_adapter_comes_from(text: str, name: str, kind: str, file: str) -> None:
    (ref,) = adapter_refs([text])
    assert (ref.name, ref.kind, ref.file) == (name, kind, file)
    assert str(ref) == text


def test_what_is_here_is_meant_before_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_peft(tmp_path / "org" / "name", LORA)
    monkeypatch.chdir(tmp_path)
    assert find_adapters(["a=org/name"])[0].path == str(tmp_path / "org" / "name")


@pytest.mark.parametrize(
    "texts",
    [
        ["a=https://h/x.bin?token=secret"],
        ["no name=https://h/x.gguf?token=secret"],
        ["a=https://h/x.gguf?token=secret", "a=https://h/y.gguf?token=secret"],
    ],
)
def test_secrets_of_a_url_are_not_shown(texts: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        adapter_refs(texts)
    assert "https://h/x." in caught.value.message
    assert "secret" not in caught.value.message


def edit(folder: Path, **config: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


@pytest.mark.spec("S0-27")
def test_a_folder_of_peft(peft: Path) -> None:
    (found,) = find_adapters([f"sql={peft}"])
    assert (found.name, found.path, found.format) == ("sql", str(peft), "safetensors")
    assert found.rank == RANK
    assert found.size == (peft / "adapter_model.safetensors").stat().st_size
    assert found.scales == {name.removesuffix(".weight"): SCALE for name in SHAPES}


def test_a_gguf_file(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "sql.gguf", LORA)
    size = path.stat().st_size
    assert find_adapters([str(path)]) == (
        Adapter(name="", path=str(path), format="gguf", size=size),
    )


def test_relative_paths(peft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(peft.parent)
    monkeypatch.setenv("HOME", str(peft.parent))
    found = find_adapters(["a=peft", "b=./peft", "c=~/peft", "peft"])
    assert {each.path for each in found} == {str(peft)}
    assert [each.name for each in found] == ["a", "b", "c", ""]


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"use_rslora": True}, ALPHA / RANK**0.5),
        ({"lora_alpha": 2}, 2 / RANK),
        ({"lora_alpha": -1.5}, -1.5 / RANK),
    ],
)
def test_scales(peft: Path, config: dict[str, Any], scale: float) -> None:
    edit(peft, **config)
    assert set(find_adapters([str(peft)])[0].scales.values()) == {scale}


def test_layers_with_a_scale_of_their_own(peft: Path) -> None:
    edit(peft, alpha_pattern={"down_proj": 4, "layers.1.self_attn.o_proj": 8})
    assert find_adapters([str(peft)])[0].scales == {
        "model.layers.0.self_attn.o_proj": SCALE,
        "model.layers.0.mlp.down_proj": 1.0,
        "model.layers.1.self_attn.o_proj": 2.0,
        "model.layers.1.mlp.down_proj": 1.0,
    }


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["a=/nowhere/at/all"], "/nowhere/at/all does not exist; give a folder or file on this"),
        (["a=nowhere"], "/nowhere does not exist; give a folder or file on this machine, a hub id"),
        (["a=./org/name"], "org/name does not exist"),
        (["a=org/name.gguf"], "org/name.gguf does not exist"),
        (["a=x=org/name"], "x=org/name does not exist"),
        (["a=org/na me"], "org/na me does not exist"),
        (["a=org/name@../x"], "has no valid revision"),
        (["a=org/name:x.bin"], "has no GGUF file after ':'"),
        (["a=ftp://h/x.gguf"], "cannot be fetched by ftp"),
        (["a=https://h/x.bin"], "is not the URL of a GGUF file"),
        (["a="], "lora 'a=' has no path; give NAME=PATH or PATH"),
        (["=x"], "'' cannot be the name of an adapter"),
        (["a b=x"], "'a b' cannot be the name of an adapter; use letters"),
        (["..=x"], "'..' cannot be the name of an adapter"),
    ],
)
def test_what_names_no_adapter(texts: list[str], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_adapters(texts)
    assert says in caught.value.message
    assert caught.value.param == "lora"


@pytest.mark.parametrize(
    ("texts", "says"), [(("a={}", "a={}"), "the name 'a'"), (("{}", "{}"), "have no name")]
)
def test_a_name_stands_once(peft: Path, texts: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigurationError, match=f"both have {says.removeprefix('have ')}"):
        find_adapters([text.format(peft) for text in texts])


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"peft_type": "IA3"}, "has peft_type 'IA3'; only LORA runs"),
        ({"use_dora": True}, "has use_dora 'True', which is not supported; merge the adapter"),
        ({"bias": "all"}, "has bias 'all'"),
        ({"modules_to_save": ["lm_head"]}, "has modules_to_save"),
        ({"lora_alpha": None}, "has lora_alpha 'None', which must be a number"),
        ({"lora_alpha": 1e400}, "has lora_alpha 'inf'"),
        ({"alpha_pattern": {"^model.*": 1}}, "has alpha_pattern"),
        ({"alpha_pattern": {"o_proj": "x"}}, "has lora_alpha 'x'"),
    ],
)
@pytest.mark.spec("S0-27")
def test_kinds_that_are_not_supported(peft: Path, config: dict[str, Any], says: str) -> None:
    edit(peft, **config)
    with pytest.raises(ConfigurationError) as caught:
        find_adapters([f"a={peft}"])
    assert f"adapter_config.json {says}" in caught.value.message


def test_weights_that_are_no_lora(tmp_path: Path) -> None:
    down, up = LORA["model.layers.0.mlp.down_proj"]
    for number, (layers, says) in enumerate(
        [
            ({"model.layers.0": (down, up[:, :2])}, "has no two matrices that go together"),
            ({"model.layers.0": (down[0], up[0])}, "which is none of a linear layer"),
            ({}, "holds no matrices"),
        ]
    ):
        path = write_peft(tmp_path / str(number), layers)
        with pytest.raises(ConfigurationError, match=says):
            find_adapters([str(path)])


@pytest.mark.reliability("S-22")
def test_pickles_are_not_opened(peft: Path) -> None:
    (peft / "adapter_model.safetensors").rename(peft / "adapter_model.bin")
    with pytest.raises(ConfigurationError, match="pickles can run code; save the adapter again"):
        find_adapters([str(peft)])


@pytest.mark.reliability("F-13")
def test_a_truncated_file(peft: Path) -> None:
    weights = peft / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ConfigurationError, match="is truncated"):
        find_adapters([str(peft)])


def test_a_model_is_no_adapter(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="so this is no adapter"):
        find_adapters([str(tmp_path)])
    (tmp_path / "x.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(16))
    with pytest.raises(ConfigurationError, match="is of the type 'model', and no adapter"):
        find_adapters([str(tmp_path / "x.gguf")])
