"""Loading a transformers model: which class, where, in what type, and whether it fits."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from openllm.config.model import LoadOptions, shown_device
from openllm.engines.hf_dummy import random_bytes, random_model
from openllm.engines.library_errors import told
from openllm.engines.torch_errors import is_out_of_memory
from openllm.engines.torch_tokenizer import load_tokenizer
from openllm.engines.torch_uses import why_no_text
from openllm.errors import ConfigurationError, EngineStartError, OpenLLMError, OutOfMemoryError
from openllm.machine import free_memory
from openllm.sizes import size_text
from openllm.types import LocalModel

logger = logging.getLogger("openllm.engines.torch")

_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_FLOATS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a number of the types that are changed to the one asked for."""
SPREAD_SHARE = 0.8
"""Of a card's free memory, what weights may fill where they are spread over several."""
RECURRENT = ("linear_attention", "mamba", "recurrent", "conv", "rwkv", "ssm", "hybrid")


class LoadedModel(NamedTuple):
    """A model ready to be called, its tokenizer, where it runs, and what it cannot do.

    `lack` says why it generates no text, though it may embed; "" if it does.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    encoder_decoder: bool
    lack: str


def load_model(local: LocalModel, options: LoadOptions) -> LoadedModel:
    """Load a model folder whose files were checked; nothing is downloaded.

    Raises:
        ConfigurationError: There is no such device, or no slow tokenizer.
        OutOfMemoryError: The weights do not fit; says need and free.
        EngineStartError: This version of transformers does not know or cannot load the model, or
            weights are missing.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    try:
        model, missing = _load(local.path, device, options)
        tokenizer = load_tokenizer((local.tokenizer or local).path, options)
    except OpenLLMError:
        raise
    except Exception as error:  # Of any class: the code is that of transformers and of the model.
        name = os.path.basename(local.path)
        if is_out_of_memory(error):
            free = size_text(free_bytes(device))
            raise OutOfMemoryError(
                f"{name!r} does not fit beside what else is in memory, and {free} are free on"
                f" {device}: {told(error)}; use a smaller model or dtype"
            ) from error
        raise EngineStartError(f"transformers cannot load {name!r}: {told(error)}") from error
    model.eval().requires_grad_(False)
    _prepare(model, device)
    lack = why_no_text(model, missing)
    return LoadedModel(model, tokenizer, device, bool(model.config.is_encoder_decoder), lack)


def _load(path: str, device: torch.device, options: LoadOptions) -> tuple[Any, set[str]]:
    """Return the model, and the names of its weights that no file has."""
    from transformers import AutoConfig

    trust = {"trust_remote_code": options.trust_remote_code, "local_files_only": True}
    config = AutoConfig.from_pretrained(path, **trust)
    _check_layers(config)
    dummy = options.load_format == "dummy"
    weights = {} if dummy else stored_bytes(path)
    most = max(weights, key=lambda kind: weights[kind], default="")
    stored = str(config.dtype or most).removeprefix("torch.")
    dtype = choose_dtype(options.dtype, stored, device)
    if dummy:
        return _random(config, dtype, device, options), set()
    cards = _cards(device, options.device)
    need = _loaded_bytes(weights, dtype)
    _check_room(need, dtype, device, cards)
    model, told = _model_class(config).from_pretrained(
        path,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
        **_attention(config),
        **_placement(need, device, cards),
        **trust,
    )
    if any(weight.is_meta for weight in model.parameters()):  # Left on the disk, to be read anew.
        raise OutOfMemoryError(
            f"the layers, {size_text(need)} in all, do not fit {len(cards)} cards of which"
            f" {size_text(sum(_spread(cards).values()))} may be filled; use a smaller model or"
            " dtype"
        )
    return model, set(told["missing_keys"])


def _random(config: Any, dtype: torch.dtype, device: torch.device, options: LoadOptions) -> Any:
    make = partial(
        _model_class(config).from_config,
        config,
        dtype=dtype,
        trust_remote_code=options.trust_remote_code,
        **_attention(config),
    )
    _check_room(random_bytes(make), dtype, device)
    return random_model(make, device)


def choose_device(asked: str | None) -> torch.device:
    """Return the device asked for, or the fastest there is: CUDA (ROCm too), MPS, CPU.

    Raises:
        ConfigurationError: There is no such device here.
    """
    if asked is None:
        if torch.cuda.is_available():
            return torch.device("cuda", _emptiest_card())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise ConfigurationError(
            f"device {asked!r} is unknown; use cpu, cuda, cuda:N or mps", param="device"
        ) from error
    cards = torch.cuda.device_count()
    usable = {"cpu": True, "mps": torch.backends.mps.is_available(), "cuda": cards > 0}
    if not usable.get(device.type) or (device.index or 0) >= max(1, cards):
        there = [kind for kind, works in usable.items() if works]
        raise ConfigurationError(
            f"device {shown_device(asked)} is not on this machine, which has {', '.join(there)}"
            + (f" ({cards} CUDA cards)" if cards else ""),
            param="device",
        )
    return device


def choose_dtype(asked: str, stored: str, device: torch.device) -> torch.dtype:
    """Return the type of the weights in memory: as asked, else as stored where it is fast."""
    if asked != "auto":
        chosen: torch.dtype = getattr(torch, asked)
        return chosen
    if stored == "float16" and device.type == "cpu":
        return torch.bfloat16  # CPUs multiply float16 many times slower.
    if stored == "bfloat16" and device.type == "mps":
        return torch.float16
    known = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    return known.get(stored, torch.float32)


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free where the model runs."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory()


def _emptiest_card() -> int:
    free = [torch.cuda.mem_get_info(card)[0] for card in range(torch.cuda.device_count())]
    return free.index(max(free))


def _cards(device: torch.device, asked: str | None) -> Sequence[int]:
    """Return the cards that the weights may go to: the one asked for by number, or all."""
    if device.type != "cuda":
        return ()
    if ":" in (asked or ""):
        return (device.index,)
    return range(torch.cuda.device_count())


def _placement(need: int, device: torch.device, cards: Sequence[int]) -> dict[str, Any]:
    """Return where weights of `need` bytes go: one device, or several cards if it is too small."""
    if device.type == "cpu":
        return {}
    if len(cards) < 2 or need < SPREAD_SHARE * free_bytes(device):
        return {"device_map": {"": str(device)}}
    return {"device_map": "auto", "max_memory": _spread(cards)}


def _spread(cards: Sequence[int]) -> dict[int, int]:
    """Return the bytes of weights that each of several cards may hold."""
    return {card: int(SPREAD_SHARE * torch.cuda.mem_get_info(card)[0]) for card in cards}


def stored_bytes(path: str) -> dict[str, int]:
    """Return the bytes of a folder's weights by their types, as PyTorch or the file names them."""
    from safetensors import safe_open

    found: Counter[str] = Counter()
    for file in weight_files(Path(path)):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                part = tensors.get_slice(name)
                kind = _NAMES.get(part.get_dtype(), part.get_dtype())
                found[kind] += math.prod(part.get_shape()) * _FLOATS.get(kind, 1)
    return dict(found)


def _loaded_bytes(stored: dict[str, int], dtype: torch.dtype) -> int:
    """Return what weights take once those of the usual types are of this one."""
    size = dtype.itemsize
    return sum(count * size // _FLOATS.get(kind, size) for kind, count in stored.items())


def weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers reads; others may hold the same weights once more."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return [folder / "model.safetensors"]
    return sorted({folder / name for name in json.loads(index.read_bytes())["weight_map"].values()})


def _check_room(
    need: int, dtype: torch.dtype, device: torch.device, cards: Sequence[int] = ()
) -> None:
    several = len(cards) > 1
    free = sum(_spread(cards).values()) if several else free_bytes(device)
    if need > free:
        raise OutOfMemoryError(
            f"the weights need {size_text(need)} as {str(dtype).removeprefix('torch.')} and"
            f" {size_text(free)} are free on {f'{len(cards)} cards' if several else device}; use a"
            " smaller model or dtype"
        )


def _check_layers(config: Any) -> None:
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    recurrent = sorted(kind for kind in kinds if any(word in kind for word in RECURRENT))
    if recurrent:
        raise EngineStartError(
            f"architecture {(config.architectures or ['?'])[0]} has layers of the kind"
            f" {', '.join(recurrent)}, which the torch engine does not batch; use backend vllm"
        )


def _attention(config: Any) -> dict[str, str]:
    """Keep to the plain attention where the faster one would leave out a part of the model."""
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return {"attn_implementation": "eager"} if capped else {}


def _model_class(config: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def _prepare(model: Any, device: torch.device) -> None:
    """Use the faster attention and, on a CPU, packed weights where they apply."""
    from openllm.engines.torch_attention import use_folded_attention
    from openllm.engines.torch_linear import can_pack, pack_linears

    if model.config.is_encoder_decoder:
        return
    use_folded_attention(model)
    if can_pack(model.dtype, device):
        logger.info("%d linear layers are packed for this CPU", pack_linears(model))
