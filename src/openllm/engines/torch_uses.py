"""What a loaded model may be used for: to generate text in a batch, to embed, or neither.

transformers makes a generating model of nearly every folder: of an encoder, which reads text in
both directions, and of one without an output layer, for which it draws one at random.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from openllm.errors import EngineStartError

Pooling = Literal["mean", "last", "cls"]

_POOLINGS: dict[str, Pooling] = {
    "mean": "mean",
    "pooling_mode_mean_tokens": "mean",
    "cls": "cls",
    "pooling_mode_cls_token": "cls",
    "lasttoken": "last",
    "pooling_mode_lasttoken": "last",
}
_MODULES = ("Transformer", "Pooling", "Normalize")


def reading_part(model: Any) -> Any:
    """Return the part of a model that turns tokens into hidden states, by which it embeds."""
    return model.get_encoder() if model.config.is_encoder_decoder else model.base_model


def why_no_text(model: Any, missing: Iterable[str]) -> str:
    """Return why a model generates no text, "" if it does.

    Args:
        model: A model of transformers.
        missing: Names of its weights that no file had.

    Raises:
        EngineStartError: Such weights are needed to embed, too.
    """
    weights = dict(model.named_parameters())
    lost = {name: weights[name] for name in sorted(missing) if name in weights}
    needed = {id(weight) for weight in reading_part(model).parameters()}
    inner = [name for name, weight in lost.items() if id(weight) in needed]
    if inner:
        raise EngineStartError(
            f"the files hold no weights for {', '.join(inner[:3])}"
            + (f" and {len(inner) - 3} more" if len(inner) > 3 else "")
            + f", which {type(model).__name__} has; fetch the model again, or correct the"
            " architecture in its config.json"
        )
    if lost:
        return f"its files hold no weights for {next(iter(lost))}"
    return _why_not_in_a_batch(model)


def _why_not_in_a_batch(model: Any) -> str:
    config = model.config
    whole = getattr(config.get_text_config(), "use_bidirectional_attention", False)
    numbers = _counts_what_is_cached(model)
    if whole in (True, "all") or (numbers and _is_encoder(config)):
        return "it reads text in both directions"
    takes = "position_ids" in inspect.signature(model.forward).parameters
    if numbers and (not takes or hasattr(config, "is_decoder")):
        return (
            "it numbers tokens by how many the cache holds, so that prompts of unlike length cannot"
            " be continued together"
        )
    return ""


def _counts_what_is_cached(model: Any) -> bool:
    """Whether a layer makes positions of a number of tokens, which padding is part of."""
    forwards = {type(module).forward for module in model.modules()}
    return any("past_key_values_length" in inspect.signature(each).parameters for each in forwards)


def _is_encoder(config: Any) -> bool:
    return not config.is_encoder_decoder and getattr(config, "is_decoder", True) is False


def pooling_of(path: str) -> Pooling:
    """Read how sentence-transformers pools this model; mean where nothing says."""
    config = _json(Path(path) / "1_Pooling" / "config.json") or {}
    flags = (name for name, value in config.items() if value is True and name in _POOLINGS)
    return _POOLINGS[config.get("pooling_mode") or next(flags, "mean")]


def why_no_vector(path: str) -> str:
    """Return why the engine does not embed as the folder says, "" if it does."""
    modules = _json(Path(path) / "modules.json") or []
    names = [str(module["type"]).rpartition(".")[2] for module in modules]
    odd = [name for name in names if name not in _MODULES]
    return f"its modules.json asks for {', '.join(odd)} behind the pooling" if odd else ""


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes()) if path.is_file() else None
