"""A model folder in the layout of transformers: read, checked and refused before anything runs.

    folder_files    small files, each with a limit
    folder_weights  which files hold the weights, and that each is whole
    folder_tokens   chat template and control tokens
    folder_layers   that no layer is missing
    folder_code     what in it would run as code

Nothing here imports a model library, opens a pickle or runs code. Whether an engine knows the
architecture is the engine's to say.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import asdict

from openllm.models.folder_code import refuse_code
from openllm.models.folder_files import FolderFiles
from openllm.models.folder_layers import check_layers
from openllm.models.folder_tokens import (
    SETTINGS,
    FolderTokens,
    has_tokenizer,
    read_tokens,
    refuse_no_tokenizer,
)
from openllm.models.folder_weights import UNREAD, read_weights
from openllm.models.gguf_window import shown

Pooling = Literal["mean", "last", "cls"]

CONFIG = "config.json"
GENERATION = "generation_config.json"
POOLING = "1_Pooling/config.json"
ADAPTER = "adapter_config.json"

_TEXT_PARTS = ("text_config", "llm_config", "language_config")
_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "n_ctx",
    "model_max_length",
)
_DTYPE_ALIASES = {"half": "float16", "float": "float32", "double": "float64"}
# fmt: off
_DTYPES = frozenset((
    "float64", "float32", "float16", "bfloat16", "int8", "uint8", "int16", "int32", "int64",
    "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
))
_ENCODER_DECODERS = frozenset((
    "t5", "mt5", "umt5", "longt5", "byt5", "t5gemma", "switch_transformers", "bart", "mbart",
    "plbart", "mvp", "pegasus", "pegasus_x", "bigbird_pegasus", "led", "marian", "m2m_100",
    "nllb-moe", "blenderbot", "blenderbot-small", "prophetnet", "fsmt", "encoder-decoder",
))
# fmt: on
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_cls_token": "cls",
    "mean": "mean",
    "lasttoken": "last",
    "cls": "cls",
}


class ModelFolder(Struct, frozen=True, kw_only=True):
    """What a model folder says of its model; texts it does not state are empty.

    Attributes:
        path: The folder.
        architecture: Class of the model, e.g. "LlamaForCausalLM".
        model_type: Name of its family in transformers, e.g. "llama".
        config: Content of `config.json`.
        dtype: Type of the stored weights as PyTorch names it, e.g. "bfloat16".
        context_length: Positions the model was made for; None if it names no limit.
        encoder_decoder: An encoder reads the prompt and a decoder writes.
        chat_template: Jinja source.
        control_tokens: Texts of the special tokens that are not blank.
        bos_token: Text of the begin-of-text token.
        eos_token: Text of the end-of-text token.
        add_bos: The tokenizer puts BOS before a prompt by itself.
        eos_token_ids: Tokens that end a text.
        pooling: How sentence-transformers makes one vector of many; None where it does not say.
        weight_files: Names of the files that hold the weights, if those were read.
        weight_bytes: Size of those files.
    """

    path: str
    architecture: str
    model_type: str
    config: dict[str, Any]
    dtype: str
    context_length: int | None
    encoder_decoder: bool
    chat_template: str
    control_tokens: tuple[str, ...]
    bos_token: str
    eos_token: str
    add_bos: bool
    eos_token_ids: tuple[int, ...]
    pooling: Pooling | None
    weight_files: tuple[str, ...]
    weight_bytes: int


def read_folder(path: str, *, trust_remote_code: bool = False, weights: bool = True) -> ModelFolder:
    """Read and check the model folder at `path`.

    Args:
        path: The folder; links in it are followed.
        trust_remote_code: Take a folder whose model or tokenizer needs code of its own.
        weights: Check the weights too; else it does not matter whether there are any.

    Raises:
        ModelFileError: It is no such folder, needs code that is not trusted, has weights that are
            missing, damaged or pickles only, or a file that is not what it says. The message
            names the file, the value and what to do.
    """
    files = FolderFiles(path)
    config = _config(files)
    generation = files.object(GENERATION) or {}
    tokenizer = files.object(SETTINGS) or {}
    if not trust_remote_code:
        refuse_code(files, {CONFIG: config, GENERATION: generation, SETTINGS: tokenizer})
    facts = model_facts(files, config)
    found = read_weights(files) if weights else UNREAD
    if weights:
        check_layers(files, config, found)
    return ModelFolder(
        path=path,
        config=config,
        eos_token_ids=_end_ids(files, generation, config),
        pooling=_pooling(files),
        weight_files=found.files,
        weight_bytes=found.size,
        **facts | {"dtype": facts["dtype"] or found.dtype},
        **asdict(read_tokens(files, tokenizer)),
    )


def read_tokenizer(path: str, *, trust_remote_code: bool = False) -> FolderTokens:
    """Read and check what the folder at `path` says of text, whatever else it holds.

    Raises:
        ModelFileError: It holds no tokenizer, or one that needs code which is not trusted, or a
            damaged file.
    """
    files = FolderFiles(path)
    if not has_tokenizer(files):
        files.fail(
            SETTINGS, "does not exist, nor another file of a tokenizer; give a folder that has one"
        )
    config, tokenizer = files.object(CONFIG) or {}, files.object(SETTINGS) or {}
    if not trust_remote_code:
        refuse_code(files, {CONFIG: config, SETTINGS: tokenizer})
    return read_tokens(files, tokenizer)


def architecture_of(files: FolderFiles, *, trust_remote_code: bool = False) -> str:
    """Return the architecture of a model of which no more is read than names and `config.json`.

    Raises:
        ModelFileError: They alone tell that `read_folder` would refuse it.
    """
    config = _config(files)
    if not trust_remote_code:
        refuse_code(files, {CONFIG: config})
    return str(model_facts(files, config)["architecture"])


def check_tokenizer(folder: str | FolderFiles, *, trust_remote_code: bool = False) -> None:
    """Check that a folder, here or on a hub, may hold a tokenizer; else raise `ModelFileError`."""
    files = FolderFiles(folder) if isinstance(folder, str) else folder
    refuse_no_tokenizer(files, files.object(CONFIG) or {}, code=trust_remote_code)


def model_facts(files: FolderFiles, config: dict[str, Any]) -> dict[str, Any]:
    """Return what `config.json` says, by the names of `ModelFolder`'s fields."""
    architectures, model_type = config.get("architectures"), config.get("model_type", "")
    first = architectures[0] if isinstance(architectures, list) and architectures else architectures
    if not isinstance(first, str) or not first:
        value = shown(repr(architectures))
        files.fail(
            CONFIG,
            f'names no architecture: "architectures" is {value}; write e.g. ["LlamaForCausalLM"]',
        )
    if not isinstance(model_type, str):
        files.fail(CONFIG, f"has the model_type {shown(repr(model_type))}, which is no text")
    return {
        "architecture": first,
        "model_type": model_type,
        "dtype": _stated_dtype(files, config),
        "context_length": _context_length(config),
        "encoder_decoder": config.get("is_encoder_decoder", model_type in _ENCODER_DECODERS)
        is True,
    }


def _config(files: FolderFiles) -> dict[str, Any]:
    if ADAPTER in files.names:
        files.fail(ADAPTER, "makes this an adapter, not a model; merge it into its model first")
    config = files.object(CONFIG)
    if config is None:
        files.fail(CONFIG, "does not exist, so this is no model folder; give one that has it")
    return config


def _stated_dtype(files: FolderFiles, config: dict[str, Any]) -> str:
    """Return the type that the configuration states, "" if none."""
    stated = ""
    for part in _parts(config):
        for key in ("dtype", "torch_dtype"):
            value = part.get(key)
            for each in value.values() if isinstance(value, dict) else [value]:
                stated = stated or _dtype(files, key, each)
    return stated


def _dtype(files: FolderFiles, key: str, value: Any) -> str:
    if value in (None, "", "auto"):
        return ""
    name = value.removeprefix("torch.") if isinstance(value, str) else repr(value)
    name = _DTYPE_ALIASES.get(name, name)
    if name not in _DTYPES:
        known = "bfloat16, float16 or float32"
        files.fail(CONFIG, f"has the unknown {key} {shown(name)}; write {known}")
    return name


def _context_length(config: dict[str, Any]) -> int | None:
    for part in _parts(config):
        for key in _CONTEXT_KEYS:
            value = part.get(key)
            if isinstance(value, int) and value > 0 and value is not True:
                return value
    return None


def _parts(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the configuration and, of a model with several parts, that of its language model."""
    inner = (config.get(name) for name in _TEXT_PARTS)
    return [config, *(part for part in inner if isinstance(part, dict))]


def _end_ids(
    files: FolderFiles, generation: dict[str, Any], config: dict[str, Any]
) -> tuple[int, ...]:
    ids: dict[int, None] = {}
    for name, part in ((GENERATION, generation), *((CONFIG, part) for part in _parts(config))):
        value = part.get("eos_token_id")
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, bool) or not isinstance(each, (int, type(None))):
                files.fail(name, f"has the eos_token_id {shown(repr(value))}; write a token's id")
            if each is not None and each >= 0:
                ids[each] = None
    return tuple(ids)


def _pooling(files: FolderFiles) -> Pooling | None:
    """Return the pooling of a sentence-transformers model; refuse one that no engine offers."""
    config = files.object(POOLING)
    if config is None:
        return None
    modes = [
        key for key, value in config.items() if key.startswith("pooling_mode_") and value is True
    ]
    if "pooling_mode" in config:
        modes = [str(config["pooling_mode"])]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        files.fail(
            POOLING,
            f"asks for the pooling {shown(repr(modes))}; mean, cls and lasttoken are"
            " supported, one at a time",
        )
    return _POOLINGS[modes[0]]
