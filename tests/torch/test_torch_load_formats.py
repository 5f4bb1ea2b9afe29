"""Weights made up from `config.json`, and the types that weights may be loaded as."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import openllm
from openllm.config.model import LoadOptions
from openllm.engines.torch_load import LoadedModel, load_model
from openllm.engines.vllm_memory import made_up_bytes
from openllm.errors import ModelFileError, OutOfMemoryError
from openllm.types import LocalModel
from tests.torch.checkpoints import make_checkpoint

OPTIONS: dict[str, Any] = {"backend": "torch", "threads": 1, "load_format": "dummy"}


@pytest.fixture(params=["llama", "flan_t5", "qwen3", "gpt_neox"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model of each kind whose weights are gone."""
    made = make_checkpoint(request.param, tmp_path / "model")
    (made / "model.safetensors").unlink()
    return made


def loaded(folder: Path, **options: Any) -> LoadedModel:
    local = LocalModel(name="m", path=str(folder), format="safetensors")
    return load_model(local, LoadOptions.model_validate(OPTIONS | options))


@pytest.mark.spec("S2-22")
def test_a_dummy_needs_no_weights(folder: Path) -> None:
    with openllm.LLM(folder, dtype="float32", **OPTIONS) as llm:
        answers = [
            llm.sync_generate("hello", max_new_tokens=6, temperature=0.0, ignore_eos=True)
            for _ in range(2)
        ]
        assert len(answers[0].outputs[0].token_ids) == 6
        assert answers[0].outputs[0].token_ids == answers[1].outputs[0].token_ids
        assert all(each.isfinite().all() for each in llm.model.parameters())
    with pytest.raises(ModelFileError, match=r"model.safetensors does not exist"):
        openllm.LLM(folder, **OPTIONS | {"load_format": "safetensors"})


@pytest.mark.spec("S2-22")
def test_a_dummy_is_the_same_every_time_and_no_other_chance_changes(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path / "model")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, other = loaded(folder, dtype="float32").model, loaded(folder, dtype="float32").model
    assert torch.equal(torch.rand(3), expected)
    real = loaded(folder, dtype="float32", load_format="auto").model
    assert one.state_dict().keys() == real.state_dict().keys()
    for name, values in one.state_dict().items():
        assert torch.equal(values, other.state_dict()[name])
        assert values.shape == real.state_dict()[name].shape
    head = "lm_head.weight"
    assert not torch.equal(one.state_dict()[head], real.state_dict()[head])


def test_what_a_dummy_takes_is_known_before(tmp_path: Path) -> None:
    """vLLM's plan of the memory asks for it, where no file tells."""
    for what in ("llama", "qwen3", "gpt_neox"):
        model = loaded(make_checkpoint(what, tmp_path / what), dtype="float32").model
        tensors = [*model.parameters(), *model.buffers()]
        taken = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        config = SimpleNamespace(hf_config=model.config, dtype=torch.float32)
        assert made_up_bytes(SimpleNamespace(model_config=config)) == taken


def test_a_dummy_beyond_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_checkpoint("llama", tmp_path / "model")
    monkeypatch.setattr("openllm.engines.torch_load.free_memory", lambda: 1000)
    with pytest.raises(OutOfMemoryError, match=r"the weights need .* free on cpu"):
        loaded(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama", tmp_path_factory.mktemp("torch") / "model")


@pytest.mark.spec("S2-23")
@pytest.mark.parametrize("load_format", ["safetensors", "dummy"])
@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("auto", torch.float32),
        ("half", torch.float16),
        ("float16", torch.float16),
        ("bfloat16", torch.bfloat16),
        ("float", torch.float32),
        ("float32", torch.float32),
    ],
)
def test_the_type_of_the_weights(
    whole: Path, asked: str, given: torch.dtype, load_format: str
) -> None:
    options = OPTIONS | {"load_format": load_format, "dtype": asked}
    with openllm.LLM(whole, **options) as llm:
        assert llm.model.dtype == given
        assert llm.sync_generate("hello", max_new_tokens=3, ignore_eos=True).finished
