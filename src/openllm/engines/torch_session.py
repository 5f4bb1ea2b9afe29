"""A loaded model with all that serves it; made and used on the worker's thread."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import torch

from openllm.config.model import LoadOptions
from openllm.engines.hf_tokens import TokenTable, check_vocabulary
from openllm.engines.torch_embed import Embedder, Pooling
from openllm.engines.torch_load import LoadedModel, free_bytes, load_model
from openllm.engines.torch_model import CausalModel, Prefill, RowState
from openllm.engines.torch_sampling import Sampler
from openllm.engines.torch_scheduler import Scheduler
from openllm.engines.torch_seq2seq import Seq2SeqModel
from openllm.errors import EngineStartError
from openllm.types import LocalModel

if TYPE_CHECKING:
    from openllm.engines.torch_grammar import GrammarCompiler

logger = logging.getLogger("openllm.engines.torch")

CONCURRENCY = 32
PREFILL_CHUNK = 512
UNBOUNDED_CONTEXT = 4096
"""Tokens of context for models that name no limit, such as those with relative positions."""
MEMORY_SHARE = 0.6
"""Of the memory that is free after loading, what the KV cache may fill."""


class TorchSession:
    """What the door needs of a loaded model.

    Attributes:
        context_length: Prompt plus output tokens of one sequence.
        max_concurrency: Sequences that run at once.
    """

    def __init__(self, model: LocalModel, options: LoadOptions) -> None:
        """Load `model`; see `torch_load.load_model` for what it raises."""
        loaded = load_model(model, options)
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.table = TokenTable(loaded.tokenizer, strip_first=loaded.encoder_decoder)
        self.vocab_size = _vocab_size(loaded.model)
        if model.tokenizer is not None:
            check_vocabulary(self.table, self.vocab_size, model.tokenizer.path)
        self.ends = _end_tokens(loaded)
        self._forward = _forward(loaded)
        self.max_concurrency = options.max_concurrency or CONCURRENCY
        limit = options.context_length or _context_length(loaded) or UNBOUNDED_CONTEXT
        token_bytes = _bytes_per_token(_probe(self._forward))
        budget = options.kv_cache_tokens or _room(loaded.device, token_bytes)
        self.budget = min(budget, self.max_concurrency * limit * 2)
        self.context_length = min(limit, self.budget // 2)
        if self.context_length < limit:
            logger.warning(
                "the KV cache holds %d tokens, so the context is %d instead of %d",
                self.budget,
                self.context_length,
                limit,
            )
        self.scheduler = Scheduler(
            self._forward,
            Sampler(self.vocab_size, loaded.device),
            self.max_concurrency,
            self.budget,
            options.prefill_chunk or PREFILL_CHUNK,
        )
        self.embedder = Embedder(loaded.model, loaded.device, _pooling(model.path))
        self._grammars: GrammarCompiler | None = None
        logger.info(
            "loaded on %s as %s; %d tokens of KV cache, %d bytes each",
            loaded.device,
            loaded.model.dtype,
            self.budget,
            token_bytes,
        )

    def grammars(self) -> GrammarCompiler:
        """Return the compiler of grammars for this tokenizer, made when first asked for."""
        from openllm.engines.torch_grammar import GrammarCompiler

        if self._grammars is None:
            self._grammars = GrammarCompiler(self.tokenizer, self.vocab_size, sorted(self.ends))
        return self._grammars


def _forward(loaded: LoadedModel) -> CausalModel | Seq2SeqModel:
    kind = Seq2SeqModel if loaded.encoder_decoder else CausalModel
    return kind(loaded.model, loaded.device)


def _vocab_size(model: Any) -> int:
    output = model.get_output_embeddings()
    size = getattr(output, "out_features", None)
    return int(size or model.config.get_text_config().vocab_size)


def _end_tokens(loaded: LoadedModel) -> frozenset[int]:
    found: set[int] = set()
    sources = (
        loaded.model.generation_config.eos_token_id,
        loaded.model.config.get_text_config().eos_token_id,
        loaded.tokenizer.eos_token_id,
    )
    for ids in sources:
        found.update(ids if isinstance(ids, (list, tuple)) else [] if ids is None else [ids])
    return frozenset(found)


def _context_length(loaded: LoadedModel) -> int | None:
    text = loaded.model.config.get_text_config()
    for name in ("max_position_embeddings", "max_seq_len", "n_positions", "seq_length"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return None if loaded.encoder_decoder else value
    return None


def _probe(forward: CausalModel | Seq2SeqModel) -> RowState:
    """Read one token, which shows whether the model uses our cache and what a token takes."""
    work = Prefill([[0]])
    forward.prefill(work, 1)
    state = work.row(0)
    if not state.cached:
        raise EngineStartError(
            "this architecture keeps no keys and values that can be batched; use --backend vllm"
        )
    return state


def _bytes_per_token(state: RowState) -> int:
    stored = [tensor for pair in (*state.cached, *state.cross) for tensor in pair]
    return sum(tensor.element_size() * tensor.numel() for tensor in stored)


def _room(device: torch.device, token_bytes: int) -> int:
    return max(1, int(free_bytes(device) * MEMORY_SHARE) // token_bytes)


def _pooling(path: str) -> Pooling:
    """Read how sentence-transformers pools this model; mean where nothing says."""
    import json
    from pathlib import Path

    try:
        config = json.loads((Path(path) / "1_Pooling" / "config.json").read_text())
    except (OSError, ValueError):
        return "mean"
    for name, pooling in (("cls_token", "cls"), ("lasttoken", "last")):
        if config.get(f"pooling_mode_{name}"):
            return cast(Pooling, pooling)
    return "mean"
