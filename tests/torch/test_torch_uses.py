"""Folders that transformers makes a generating model of, though it cannot generate: what is theirs
to do is done, the rest is refused; and weights that no file has are never made up.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from openllm.engines.torch_load import stored_bytes
from openllm.engines.torch_session import _room
from openllm.errors import EngineStartError, UnsupportedError
from tests.torch.checkpoints import make_checkpoint, make_tokenizer
from tests.torch.greedy import engine, tokens

PROMPT = (20, 30, 40, 50, 60)
BERT: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
BART: dict[str, Any] = {
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
}


def saved(model: Any, folder: Path) -> Path:
    tokenizer = make_tokenizer("bytes")
    with torch.no_grad():
        for values in model.parameters():
            values.normal_(0, 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def size() -> int:
    return len(make_tokenizer("bytes"))


async def vector(folder: Path) -> torch.Tensor:
    async with engine(folder) as made:
        output = await made.embed([PROMPT])
    return torch.tensor(array("f", output.vectors[0]))


def mean(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        hidden = model(torch.tensor([PROMPT])).last_hidden_state[0]
    return torch.nn.functional.normalize(hidden.mean(0), dim=-1)


@pytest.mark.anyio
@pytest.mark.reliability("C-21")
@pytest.mark.parametrize(
    "kind", ["BertModel", "RobertaForMaskedLM", "BartForConditionalGeneration"]
)
async def test_what_cannot_generate_embeds(kind: str, size: int, tmp_path: Path) -> None:
    made = getattr(transformers, kind)
    values = BART if kind.startswith("Bart") else BERT
    folder = saved(made(made.config_class(vocab_size=size, **values)), tmp_path / "model")
    async with engine(folder) as started:
        with pytest.raises(UnsupportedError, match="does not generate text: it") as raised:
            await tokens(started, PROMPT)
    assert raised.value.param == "model"
    plain = transformers.AutoModel.from_pretrained(folder).eval()
    expected = mean(plain.get_encoder() if values is BART else plain)
    assert torch.allclose(await vector(folder), expected, atol=1e-5)


@pytest.mark.anyio
async def test_a_model_that_can_do_nothing_does_not_start(size: int, tmp_path: Path) -> None:
    config = transformers.BertConfig(vocab_size=size, **BERT)
    folder = saved(transformers.BertModel(config), tmp_path / "model")
    with pytest.raises(EngineStartError, match="can neither generate nor embed: it"):
        async with engine(folder, embeddings=False):
            pass


@pytest.mark.anyio
async def test_without_an_output_layer_it_embeds(tmp_path: Path) -> None:
    folder = spoilt(tmp_path, lambda name: name == "lm_head.weight")
    async with engine(folder) as made:
        with pytest.raises(UnsupportedError, match=r"files hold no weights for lm_head\.weight"):
            await tokens(made, PROMPT)
        assert len((await made.embed([PROMPT])).vectors) == 1


@pytest.mark.anyio
@pytest.mark.reliability("S-22")
async def test_weights_that_no_file_has_are_not_made_up(tmp_path: Path) -> None:
    folder = spoilt(tmp_path, lambda name: ".layers.1.mlp." in name)
    with pytest.raises(EngineStartError, match=r"no weights for model\.layers\.1\.mlp\.down_proj"):
        async with engine(folder):
            pass


def spoilt(path: Path, left_out: Callable[[str], bool]) -> Path:
    """Write a checkpoint without some of its weights."""
    folder = make_checkpoint("llama", path / "model")
    file = folder / "model.safetensors"
    kept = {name: each for name, each in load_file(file).items() if not left_out(name)}
    save_file(kept, file, metadata={"format": "pt"})
    return folder


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("said", "pooled"),
    [
        ({"pooling_mode": "lasttoken"}, lambda hidden: hidden[-1]),
        ({"pooling_mode": "cls"}, lambda hidden: hidden[0]),
        ({"pooling_mode_cls_token": True}, lambda hidden: hidden[0]),
        ({"pooling_mode_mean_tokens": True}, lambda hidden: hidden.mean(0)),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}, lambda h: h[-1]),
    ],
    ids=str,
)
async def test_both_spellings_of_the_pooling_are_read(
    said: dict[str, Any], pooled: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    folder = make_checkpoint("llama", tmp_path / "model")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(said))
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = pooled(model(torch.tensor([PROMPT])).last_hidden_state[0])
    expected = torch.nn.functional.normalize(expected, dim=-1)
    assert torch.allclose(await vector(folder), expected, atol=1e-5)


@pytest.mark.anyio
async def test_layers_behind_the_pooling_are_not_left_out(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path / "model")
    names = ("Transformer", "Pooling", "Dense", "Normalize")
    modules = [{"type": f"sentence_transformers.models.{name}"} for name in names]
    (folder / "modules.json").write_text(json.dumps(modules))
    async with engine(folder) as made:
        assert made.capabilities.max_embedding_tokens == 0
        with pytest.raises(UnsupportedError, match="asks for Dense behind the pooling"):
            await made.embed([PROMPT])
        assert await tokens(made, PROMPT)


@pytest.mark.anyio
async def test_vectors_are_numbers(tmp_path: Path) -> None:
    async with engine(make_checkpoint("llama", tmp_path / "model")) as made:
        with torch.inference_mode():
            made.model.get_input_embeddings().weight[PROMPT[2]] = torch.inf
        with pytest.raises(Exception, match="hidden states are not finite"):
            await made.embed([PROMPT])


@pytest.mark.anyio
async def test_the_type_of_the_weights_is_that_of_the_files_where_nothing_says(
    tmp_path: Path,
) -> None:
    folder = make_checkpoint("llama", tmp_path / "model")
    file = folder / "model.safetensors"
    weights = {name: values.bfloat16() for name, values in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    save_file(weights, folder / "consolidated.safetensors")  # The same once more, as Mistral does.
    config = json.loads((folder / "config.json").read_text())
    del config["dtype"]
    (folder / "config.json").write_text(json.dumps(config))
    taken = sum(2 * values.numel() for values in weights.values())
    assert stored_bytes(str(folder)) == {"bfloat16": taken}
    async with engine(folder, dtype="auto") as made:
        assert made.model.dtype == torch.bfloat16


def test_the_fullest_card_says_how_many_tokens_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the layers, one card has three times as many as the other, and less room."""
    one, other = torch.device("cuda", 0), torch.device("cuda", 1)
    free = {one: 3000, other: 2000}
    monkeypatch.setattr("openllm.engines.torch_session.free_bytes", free.__getitem__)
    assert _room({one: 10, other: 30}) == 40
    assert _room({one: 10}) == 180
