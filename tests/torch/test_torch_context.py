"""The context that the engine tells is what its model has positions for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from openllm.errors import ContextLengthError
from tests.torch.checkpoints import make_tokenizer
from tests.torch.greedy import engine

POSITIONS = 66


@pytest.mark.anyio
@pytest.mark.reliability("C-19", "C-21")
@pytest.mark.parametrize(
    ("kind", "padding", "usable"),
    [
        ("BertModel", 0, POSITIONS),
        ("RobertaModel", 1, POSITIONS - 2),
        ("XLMRobertaForMaskedLM", 1, POSITIONS - 2),
        ("CamembertModel", 3, POSITIONS - 4),
    ],
)
async def test_as_many_tokens_as_are_told_can_be_embedded(
    kind: str, padding: int, usable: int, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer("bytes")
    made = getattr(transformers, kind)
    model = made(
        made.config_class(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=32,
            max_position_embeddings=POSITIONS,
            pad_token_id=padding,
        )
    )
    with torch.no_grad():
        for values in model.parameters():
            values.normal_(0, 0.3)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    async with engine(tmp_path) as started:
        assert started.capabilities.context_length == usable
        assert started.capabilities.max_embedding_tokens == usable
        output = await started.embed([(20,) * usable])
        assert output.prompt_tokens == usable
        with pytest.raises(ContextLengthError, match=f"{usable + 1} tokens"):
            await started.embed([(20,) * (usable + 1)])
