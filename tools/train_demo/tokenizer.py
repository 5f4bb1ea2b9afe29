"""Trains the byte-level BPE tokenizer and encodes samples."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tools.train_demo.chat import SPECIAL_TOKENS, segments
from tools.train_demo.corpus import Corpus

VOCABULARY = 4096


def train_tokenizer(path: Path, seed: int = 1, samples: int = 60_000) -> Tokenizer:
    """Train on generated samples and save ``tokenizer.json`` at the path."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (
        "".join(text for text, _ in segments(sample))
        for sample in islice(Corpus().samples(seed), samples)
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise ValueError(f"vocabulary has {tokenizer.get_vocab_size()} entries, not {VOCABULARY}")
    tokenizer.save(str(path))
    return tokenizer
