"""Whatever the tokenizer, what people write becomes the ids that transformers makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from openllm.engines.hf_tokens import TokenTable
from tests.torch.chat_families import assistant, rules_of, user
from tests.torch.hf_tokenizers import KINDS, demo, llama

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|user|>\n {{ m.content }} <|end|>\n{{ m.content }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
CONTENTS = [
    "Hello", " Hello", "Hello ", "  two  ", "    four", "", "\n", "\n\n", "\t tab", "\r\n",
    "日本語 🙂 e\u0301 é", "no\u00a0break", "a\u00adb", "\u2581\u2581a", "<0x41>", "a<b>bold</b>c",
    "<think>hm</think>", "def f():\n    return 1\n", "##s [ INST ] < s >", "\x00\ufeff\u202e",
]  # fmt: skip


def stripping(folder: Path) -> Any:
    """As Phi 3's: control tokens that take the blanks beside them."""
    tokenizer = llama(folder)
    tokenizer.add_tokens(
        [
            AddedToken("<|user|>", rstrip=True, normalized=False, special=True),
            AddedToken("<|end|>", lstrip=True, rstrip=True, normalized=False, special=True),
            AddedToken("<|assistant|>", rstrip=True, single_word=True, special=True),
        ]
    )
    return tokenizer


def plain(folder: Path) -> Any:
    """The control tokens of the template are added tokens, but not special."""
    tokenizer = demo(folder)
    tokenizer.add_tokens(["<|user|>", "<|end|>", AddedToken("<|assistant|>", lstrip=True)])
    return tokenizer


@pytest.mark.parametrize("make", [*KINDS.values(), stripping, plain])
def test_contents_become_the_ids_of_transformers(make: Any, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    tokenizer = make(tmp_path / "made")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "saved")
    template = rules_of(tmp_path / "saved").template
    assert template is not None
    table = TokenTable(tokenizer)
    for content in CONTENTS:
        said = [user(content), assistant(content), user("x")]
        turns = [{"role": each.role, "content": each.content} for each in said]
        expected = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=False
        )
        (text,) = template.render(said)
        assert isinstance(text, str)
        assert table.encode(text, special=True) == expected, content
