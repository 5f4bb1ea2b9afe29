"""A loaded model with all that serves it; made and used on the worker's thread."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from openllm.config.model import CONCURRENCY, PREFILL_CHUNK, LoadOptions
from openllm.engines.context_option import context_asked
from openllm.engines.hf_tokens import TokenTable, check_vocabulary
from openllm.engines.library_errors import told
from openllm.engines.torch_embed import Embedder
from openllm.engines.torch_load import LoadedModel, free_bytes, load_model
from openllm.engines.torch_lora import Lora
from openllm.engines.torch_model import CausalModel, Prefill, RowState
from openllm.engines.torch_sampling import Sampler
from openllm.engines.torch_scheduler import Scheduler
from openllm.engines.torch_seq2seq import Seq2SeqModel
from openllm.engines.torch_uses import pooling_of, why_no_vector
from openllm.errors import EngineStartError
from openllm.types import LocalModel

if TYPE_CHECKING:
    from openllm.engines.torch_grammar import GrammarCompiler

logger = logging.getLogger("openllm.engines.torch")

UNBOUNDED_CONTEXT = 4096
"""Tokens of context for models that name no limit, such as those with relative positions."""
MEMORY_SHARE = 0.6
"""Of the memory that is free after loading, what the KV cache may fill."""


class TorchSession:
    """What the door needs of a loaded model.

    Attributes:
        context_length: Prompt plus output tokens of one sequence.
        max_concurrency: Sequences that run at once.
        no_text: Why the model generates no text; "" if it does.
        no_vector: Why it does not embed; "" if it does.
    """

    def __init__(self, model: LocalModel, options: LoadOptions) -> None:
        """Load `model`; see `torch_load.load_model` for what it raises."""
        loaded = load_model(model, options)
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        lora = Lora(loaded.model, model.adapters)
        self.table = TokenTable(loaded.tokenizer, strip_first=loaded.encoder_decoder)
        self.vocab_size = _vocab_size(loaded.model)
        self.no_text = loaded.lack
        self.no_vector = why_no_vector(model.path) if options.embeddings else "it was not asked for"
        self._check_uses(model.name)
        if model.tokenizer is not None:
            check_vocabulary(self.table, self.vocab_size, model.tokenizer.path)
        self.ends = _end_tokens(loaded)
        self._forward = _forward(loaded)
        self.max_concurrency = options.max_concurrency or CONCURRENCY["torch"]
        limit = _limit(model.name, options.context_length, _context_length(loaded))
        token_bytes = _token_bytes(_probe(self._forward))
        budget = options.kv_cache_tokens or _room(token_bytes)
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
            lora,
            Sampler(self.vocab_size, loaded.device),
            self.max_concurrency,
            self.budget,
            options.prefill_chunk or PREFILL_CHUNK["torch"],
        )
        self.embedder = Embedder(loaded.model, lora, loaded.device, pooling_of(model.path))
        self._grammars: GrammarCompiler | None = None
        logger.info(
            "loaded on %s as %s; %d tokens of KV cache, %d bytes each",
            loaded.device,
            loaded.model.dtype,
            self.budget,
            sum(token_bytes.values()),
        )

    def _check_uses(self, name: str) -> None:
        if self.no_text and self.no_vector:
            raise EngineStartError(
                f"model {name!r} can neither generate nor embed: {self.no_text}; {self.no_vector}"
            )
        if self.no_text:
            logger.warning("model %r embeds and generates no text: %s", name, self.no_text)

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
    names = ["max_position_embeddings"]
    if not loaded.encoder_decoder:  # T5 states one of these, and has relative positions.
        names += ["max_seq_len", "n_positions", "seq_length"]
    found = (getattr(text, name, None) for name in names)
    stated = next((value for value in found if isinstance(value, int) and value > 0), None)
    return stated and stated - _unused_positions(loaded.model)


def _unused_positions(model: Any) -> int:
    """Return how many positions no token has: in RoBERTa the first one follows that of padding."""
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.rpartition(".")[2] == "position_embeddings" and padding is not None:
            return int(padding) + 1
    return 0


def _limit(name: str, asked: int | None, made_for: int | None) -> int:
    """Return the context asked for, at most what the model was made for."""
    return context_asked(name, asked, made_for) or made_for or UNBOUNDED_CONTEXT


def _probe(forward: CausalModel | Seq2SeqModel) -> RowState:
    """Read one token, which shows whether the model uses our cache and what a token takes."""
    work = Prefill([[0]], [1])
    try:
        forward.prefill(work, 1)
    except (AttributeError, LookupError, NotImplementedError, TypeError) as error:
        raise EngineStartError(
            "this architecture keeps more than keys and values, which the torch engine does not"
            f" batch ({told(error)}); use backend vllm"
        ) from error
    state = work.row(0)
    if not state.cached:
        raise EngineStartError(
            "this architecture keeps no keys and values that can be batched; use backend vllm"
        )
    return state


def _token_bytes(state: RowState) -> dict[torch.device, int]:
    """Return the bytes that a token takes on each device: the layers may be on several."""
    taken: Counter[torch.device] = Counter()
    for tensor in chain.from_iterable((*state.cached, *state.cross)):
        taken[tensor.device] += tensor.element_size() * tensor.numel()
    return dict(taken)


def _room(token_bytes: dict[torch.device, int]) -> int:
    """Return the tokens that the fullest device holds."""
    room = (int(free_bytes(device) * MEMORY_SHARE) // size for device, size in token_bytes.items())
    return max(1, min(room))
