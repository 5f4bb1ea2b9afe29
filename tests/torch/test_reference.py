"""The model in numpy that the engines' perplexity is held against is that of transformers."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.contract.reference import ReferenceLlama
from tests.contract.subject import DEMO_FOLDER
from tests.contract.test_perplexity import known_text


@pytest.mark.reliability("C-26")
def test_the_reference_gives_the_logprobs_of_transformers() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_FOLDER)
    model = AutoModelForCausalLM.from_pretrained(DEMO_FOLDER, dtype=torch.float32)
    ids = tokenizer.encode(known_text()[:1500], add_special_tokens=False)
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, :-1]
    exact = logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
    assert ReferenceLlama(DEMO_FOLDER).logprobs(ids) == pytest.approx(exact.numpy(), abs=1e-3)
