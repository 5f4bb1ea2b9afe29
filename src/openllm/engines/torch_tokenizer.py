"""The tokenizer of a transformers model, from the model's folder or another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openllm.config.model import LoadOptions
from openllm.engines.hf_encode import affixes
from openllm.engines.library_errors import told
from openllm.errors import ConfigurationError, EngineStartError

VOCABULARY = "tokenizer.model"


def load_tokenizer(folder: str, options: LoadOptions) -> Any:
    """Load the tokenizer in `folder`, whose files were checked; nothing is downloaded.

    Raises:
        ConfigurationError: A slow one was asked for, and there is none.
        EngineStartError: This version of transformers cannot load it.
    """
    from transformers import AutoTokenizer

    trust = {"trust_remote_code": options.trust_remote_code, "local_files_only": True}
    try:
        found = AutoTokenizer.from_pretrained(folder, **trust)
        return _slow(folder, found) if _wants_slow(found, options) else found
    except ConfigurationError:
        raise
    except Exception as error:  # Of any class: the code is that of transformers and of the model.
        raise EngineStartError(
            f"transformers cannot load the tokenizer in {folder!r}: {told(error)}"
        ) from error


def _wants_slow(found: Any, options: LoadOptions) -> bool:
    return options.tokenizer_mode == "slow" and bool(found.is_fast)


def _slow(folder: str, fast: Any) -> Any:
    """Return the tokenizer by SentencePiece itself, with the tokens around a text as `fast` has."""
    from transformers import SentencePieceBackend

    if not (Path(folder) / VOCABULARY).is_file():
        raise ConfigurationError(
            f"tokenizer_mode slow: there is no {VOCABULARY} in {folder}, so it has no slow"
            " tokenizer; use tokenizer_mode auto",
            param="tokenizer_mode",
        )
    slow = SentencePieceBackend.from_pretrained(folder, local_files_only=True)
    slow.special_tokens_pattern = "prefix_suffix"
    slow.prefix_tokens, slow.suffix_tokens = affixes(fast)
    return slow
