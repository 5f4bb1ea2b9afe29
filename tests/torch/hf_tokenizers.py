"""Small tokenizers of the kinds that models have, each trained here on a few lines of text."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoTokenizer,
    BertGenerationTokenizer,
    ByT5Tokenizer,
    LlamaTokenizer,
    PreTrainedTokenizer,
    PreTrainedTokenizerFast,
    T5Tokenizer,
)

import openllm

DEMO = Path(openllm.__file__).parent / "demo" / "safetensors"
TEXT = [
    "The quick brown fox jumps over the lazy dog; it doesn't stop, does it?",
    "Une élève naïve a mangé des œufs à la crème brûlée.",
    "日本語のトークンは難しい。東京は日本の首都です。",
    "def f(x):\n    return x + 1  # two  spaces\n\n\nprint(f(41))",
    "مرحبا بالعالم, שלום עולם, Привет мир, γειά σου Κόσμε.",
    "emoji 🙂 👍🏽 👩‍👩‍👧‍👦 🇩🇪🇫🇷 and \u0065\u0301 combined",
    "1234567890 3.14159 <tag> a@b.c https://example.org/?q=1&r=2",
] * 20
CONTROLS = ("<s>", "</s>", "<|user|>")
GPT4_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def demo(_: Path) -> Any:
    return AutoTokenizer.from_pretrained(DEMO)


def gpt2(_: Path) -> Any:
    """GPT-2's: byte-level BPE with its own way to split words, the end token also unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end
    )


def tiktoken(_: Path) -> Any:
    """Llama 3's: tiktoken's split, BOS by a post-processor, added tokens of both sorts."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(GPT4_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_special_tokens([*CONTROLS, "<｜end▁of｜>"])
    tokenizer.add_tokens(
        ["<think>", "no\u00a0break", "\u00ad", AddedToken("    ", normalized=False)]
    )
    bos = [("<s>", tokenizer.token_to_id("<s>"))]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=bos)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def llama(folder: Path) -> Any:
    """Llama 2's: BPE by the library sentencepiece, with byte tokens, from its own model file."""
    (folder / "tokenizer.model").write_bytes(_sentencepiece("bpe", byte_fallback=True))
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True}))
    return LlamaTokenizer.from_pretrained(folder)


def gemma(_: Path) -> Any:
    """Gemma's: as Llama 2's, without a space before a text; runs of spaces are added tokens."""
    space = "\u2581"
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", space)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", "<bos>", *fallback], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if not t["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_tokens([AddedToken(space * n, normalized=True) for n in (2, 3, 4)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<unk>")


def t5(folder: Path) -> Any:
    """T5's: Unigram by the library sentencepiece; the end token is a token of the model too."""
    (folder / "spiece.model").write_bytes(
        _sentencepiece("unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    )
    (folder / "tokenizer_config.json").write_text("{}")
    return T5Tokenizer.from_pretrained(folder)


def bert(_: Path) -> Any:
    """BERT's: WordPiece; text loses its case and its spaces."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def words(_: Path) -> Any:
    """Whole words, without a decoder; the control tokens are words of the model."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>", *CONTROLS], show_progress=False)
    tokenizer.train_from_iterator([*TEXT, " ".join("<user>/")], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def odd(_: Path) -> Any:
    """A decoder that has no rules here: it replaces by a pattern."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.Replace(Regex("[\u2581_]"), " ")])
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def sentencepiece_in_python(folder: Path) -> Any:
    """Tokens as Llama 2's, decoded by code; without byte tokens, which that code does not read."""
    path = folder / "spiece.model"
    path.write_bytes(_sentencepiece("bpe"))
    return BertGenerationTokenizer(str(path))


def bytes_in_python(_: Path) -> Any:
    """A token for each byte, each written as the character of its number."""
    return ByT5Tokenizer()


class TiktokenInPython(PreTrainedTokenizer):
    """As models with tokenizer code of their own have it: tokens are bytes, specials are text.

    It finds control tokens in text whatever `split_special_tokens` says.
    """

    def __init__(self, **options: Any) -> None:
        pairs = [bytes([one, other]) for one in b" etaoinshr" for other in b"etaoinshrdlu"]
        self.ranks = [bytes([byte]) for byte in range(256)] + pairs
        self.controls = {"<|im_start|>": len(self.ranks), "<|im_end|>": len(self.ranks) + 1}
        super().__init__(additional_special_tokens=list(self.controls), **options)

    @property
    def vocab_size(self) -> int:
        return len(self.ranks) + len(self.controls)

    def get_vocab(self) -> dict[Any, int]:
        return {token: at for at, token in enumerate(self.ranks)} | self.controls

    def tokenize(self, text: str, **_: Any) -> list[Any]:
        tokens: list[Any] = []
        data = text.encode()
        while data:
            special = next((c for c in self.controls if data.startswith(c.encode())), None)
            size = len(special) if special else 2 if data[:2] in self.ranks else 1
            tokens.append(special or data[:size])
            data = data[size:]
        return tokens

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        if isinstance(tokens, (str, bytes)):
            return self.get_vocab()[tokens]
        return [self.get_vocab()[token] for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        names = {at: name for name, at in self.controls.items()}
        if isinstance(ids, int):
            return names.get(ids) or self.ranks[ids]
        return [self.convert_ids_to_tokens(each) for each in ids]

    def _decode(self, token_ids: Any, skip_special_tokens: bool = False, **_: Any) -> str:
        kept = [self.ranks[each] for each in token_ids if each < len(self.ranks)]
        return b"".join(kept).decode("utf-8", "replace")


def tiktoken_in_python(_: Path) -> Any:
    return TiktokenInPython()


KINDS: dict[str, Callable[[Path], Any]] = {
    make.__name__: make
    for make in (
        demo, gpt2, tiktoken, llama, gemma, t5, bert, words, odd,
        sentencepiece_in_python, bytes_in_python, tiktoken_in_python,
    )
}  # fmt: skip


def _sentencepiece(kind: str, **options: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT),
        model_writer=model,
        model_type=kind,
        vocab_size=600 if kind == "bpe" else 300,
        hard_vocab_limit=False,
        character_coverage=0.98,
        normalization_rule_name="identity" if kind == "bpe" else "nmt_nfkc",
        remove_extra_whitespaces=kind != "bpe",
        minloglevel=2,
        **options,
    )
    return model.getvalue()
