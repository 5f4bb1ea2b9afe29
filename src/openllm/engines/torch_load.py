"""Loading a transformers model: which class, where, in what type, and whether it fits."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from openllm.config.model import LoadOptions
from openllm.engines.hf_dummy import random_bytes, random_model
from openllm.engines.torch_tokenizer import load_tokenizer
from openllm.errors import ConfigurationError, EngineStartError, OpenLLMError, OutOfMemoryError
from openllm.machine import free_memory
from openllm.sizes import size_text
from openllm.types import LocalModel

logger = logging.getLogger("openllm.engines.torch")

RECURRENT = ("linear_attention", "mamba", "recurrent", "conv", "rwkv", "ssm", "hybrid")


class LoadedModel(NamedTuple):
    """A model ready to be called, its tokenizer, and where it runs."""

    model: Any
    tokenizer: Any
    device: torch.device
    encoder_decoder: bool


def load_model(local: LocalModel, options: LoadOptions) -> LoadedModel:
    """Load a model folder whose files were checked; nothing is downloaded.

    Raises:
        ConfigurationError: There is no such device, or no slow tokenizer.
        OutOfMemoryError: The weights do not fit; says need and free.
        EngineStartError: This version of transformers does not know or cannot load the model.
    """
    from transformers import AutoConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if options.threads:
        torch.set_num_threads(options.threads)
    path = local.path
    device = choose_device(options.device)
    trust = {"trust_remote_code": options.trust_remote_code, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(path, **trust)
        _check_layers(config)
        stored = str(config.dtype or "").removeprefix("torch.")
        dtype = choose_dtype(options.dtype, stored, device)
        if options.load_format == "dummy":
            model = _random(config, dtype, device, options)
        else:
            cards = _cards(device, options.device)
            need = _loaded_bytes(path, stored, dtype)
            _check_room(need, dtype, device, cards)
            model = _model_class(config).from_pretrained(
                path,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                **_attention(config),
                **_placement(need, device, cards),
                **trust,
            )
        tokenizer = load_tokenizer((local.tokenizer or local).path, options)
    except OpenLLMError:
        raise
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(f"{path} does not fit the memory of {device}: {error}") from error
    except (ValueError, OSError, KeyError, ImportError, RuntimeError) as error:
        raise EngineStartError(
            f"transformers cannot load {os.path.basename(path)!r}: {_first_line(error)}"
        ) from error
    model.eval().requires_grad_(False)
    _prepare(model, dtype, device)
    return LoadedModel(model, tokenizer, device, bool(config.is_encoder_decoder))


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
            f"device {asked!r} is not on this machine, which has {', '.join(there)}"
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
    if len(cards) < 2 or need < 0.8 * free_bytes(device):
        return {"device_map": {"": str(device)}}
    room = {card: int(0.8 * torch.cuda.mem_get_info(card)[0]) for card in cards}
    return {"device_map": "auto", "max_memory": room}


def _loaded_bytes(path: str, stored: str, dtype: torch.dtype) -> int:
    """Return what the weights of the folder take once they are of this type."""
    stored_size = {"float32": 4, "float64": 8, "int8": 1}.get(stored, 2)
    size = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
    return size * int(dtype.itemsize) // stored_size


def _check_room(
    need: int, dtype: torch.dtype, device: torch.device, cards: Sequence[int] = ()
) -> None:
    free = sum(torch.cuda.mem_get_info(card)[0] for card in cards) or free_bytes(device)
    if need > free:
        raise OutOfMemoryError(
            f"the weights need {size_text(need)} as {str(dtype).removeprefix('torch.')} and"
            f" {size_text(free)} are free on {device}; use a smaller model or dtype"
        )


def _check_layers(config: Any) -> None:
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    recurrent = sorted(kind for kind in kinds if any(word in kind for word in RECURRENT))
    if recurrent:
        raise EngineStartError(
            f"architecture {(config.architectures or ['?'])[0]} has layers of the kind"
            f" {', '.join(recurrent)}, which the torch engine does not batch; use --backend vllm"
        )


def _attention(config: Any) -> dict[str, str]:
    """Keep to the plain attention where the faster one would leave out a part of the model."""
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return {"attn_implementation": "eager"} if capped else {}


def _model_class(config: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def _prepare(model: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Use the faster attention and, on a CPU, packed weights where they apply."""
    from openllm.engines.torch_attention import use_folded_attention
    from openllm.engines.torch_linear import can_pack, pack_linears

    if model.config.is_encoder_decoder:
        return
    use_folded_attention(model)
    if can_pack(dtype, device):
        logger.info("%d linear layers are packed for this CPU", pack_linears(model))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:400]
