"""Which model a text means: parsed once, printed back the same, resolved to a file.

A model is named by `demo` (any bundled name), by the path of a `.gguf` file or of a
`.script.json` file for the scripted engine, or by `NAME=` before either to choose the name that
requests use. No file is opened here before `check_files`.
"""

from __future__ import annotations

import difflib
import os
import re

import msgspec

from openllm.errors import ConfigurationError, ModelFileError
from openllm.models.gguf import read_header
from openllm.models.registry import BUNDLED, MAX_NAME_LENGTH, Registry, is_model_name
from openllm.types import LocalModel, ModelFormat

MAX_LENGTH = 4096
MAX_SCRIPT_BYTES = 16 * 1024 * 1024

_FORMATS: dict[str, ModelFormat] = {".gguf": "gguf", ".script.json": "script"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class ModelRef(msgspec.Struct, frozen=True):
    """What a user typed for one model; `str()` gives the text back unchanged.

    Attributes:
        source: A bundled name or the path of a file, as typed.
        name: The name chosen before "=", "" when there was none.
    """

    source: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name}={self.source}" if self.name else self.source


def parse_ref(text: str) -> ModelRef:
    """Split `text` into the chosen name and the source.

    Raises:
        ConfigurationError: It is empty, too long, begins with "-", has control characters, or
            the name before "=" is none that requests could use.
    """
    shown = repr(text[:80])
    if not text.strip():
        raise ConfigurationError("A model name is empty; give e.g. demo or ./model.gguf.")
    if len(text) > MAX_LENGTH:
        raise ConfigurationError(
            f"The model {shown}... has {len(text)} characters; at most {MAX_LENGTH} are possible."
        )
    if not text.isprintable():
        raise ConfigurationError(f"The model {shown} has unprintable characters; remove them.")
    if text.startswith("-"):
        raise ConfigurationError(f"The model {shown} begins with '-'; write ./{text[:80]} instead.")
    name, equals, source = text.partition("=")
    if not equals or "/" in name or name.startswith("~"):
        return ModelRef(text)
    if not is_model_name(name):
        raise _bad_name(name, source)
    if not source:
        raise ConfigurationError(f"The model {shown} has nothing after '='; write NAME=PATH.")
    return ModelRef(source, name)


def resolve(text: str, registry: Registry = BUNDLED) -> LocalModel:
    """Return the local model that `text` means; its file exists but is not yet checked.

    Raises:
        ConfigurationError: No such name is known, the text is a hub id, or the file has neither
            a known ending nor a stem that can be its name.
        ModelFileError: There is no such file.
    """
    ref = parse_ref(text)
    known = registry.path(ref.source)
    if known is not None:
        return _local_model(ref.name or ref.source, known)
    if not ref.source.endswith(tuple(_FORMATS)):
        raise _unknown(ref.source, registry)
    path = os.path.abspath(os.path.expanduser(ref.source))
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        raise ModelFileError(f"The model file {ref.source} {what}; give the path of a file.")
    return _local_model(ref.name or _stem(path), path)


def parse_models(text: str, registry: Registry = BUNDLED) -> tuple[LocalModel, ...]:
    """Resolve a comma-separated list; raises `ConfigurationError` for empty or repeated names."""
    models: list[LocalModel] = []
    for part in text.split(","):
        if not part.strip():
            raise ConfigurationError(f"The list of models {text[:80]!r} has an empty entry.")
        model = resolve(part.strip(), registry)
        if any(model.name == other.name for other in models):
            raise ConfigurationError(
                f"Two models have the name {model.name!r}; choose another with NAME=PATH."
            )
        models.append(model)
    return tuple(models)


def check_files(model: LocalModel) -> None:
    """Check that the model's file is what it says; raises `ModelFileError` if not.

    A GGUF file's header is read wholly; of a script only that it is JSON.
    """
    if model.format == "gguf":
        read_header(model.path)
    else:
        _check_json(model.path)


def _local_model(name: str, path: str) -> LocalModel:
    ending = next(ending for ending in _FORMATS if path.endswith(ending))
    if not is_model_name(name):
        raise _bad_name(name, path)
    return LocalModel(name=name, path=path, format=_FORMATS[ending])


def _stem(path: str) -> str:
    file = os.path.basename(path)
    return next(file.removesuffix(ending) for ending in _FORMATS if file.endswith(ending))


def _bad_name(name: str, source: str) -> ConfigurationError:
    allowed = f"letters, digits, _ : . and -, at most {MAX_NAME_LENGTH} of them"
    better = re.sub(r"[^A-Za-z0-9_:.]+|\.{2,}", "-", name).strip("-.")[:MAX_NAME_LENGTH] or "NAME"
    return ConfigurationError(
        f"{name[:80]!r} cannot be the name of a model ({allowed}); write {better}={source}."
    )


def _unknown(source: str, registry: Registry) -> ConfigurationError:
    if _HUB_ID.fullmatch(source) and not os.path.exists(source):
        return ConfigurationError(
            f"{source} is an id of a model hub, and this version serves the bundled model"
            " and local GGUF files only; download it and give the path of its .gguf file."
        )
    if "/" in source or source.startswith((".", "~")):
        return ConfigurationError(f"The model file {source} must end with {' or '.join(_FORMATS)}.")
    close = difflib.get_close_matches(source[:MAX_NAME_LENGTH].lower(), registry, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return ConfigurationError(
        f"Unknown model {source[:80]!r}.{hint} Known models: {', '.join(registry)};"
        " or give the path of a .gguf file."
    )


def _check_json(path: str) -> None:
    name = os.path.basename(path)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_SCRIPT_BYTES + 1)
        if len(content) > MAX_SCRIPT_BYTES:
            raise ModelFileError(f"{name} is larger than {MAX_SCRIPT_BYTES} bytes.")
        msgspec.json.decode(content)
    except OSError as error:
        raise ModelFileError(f"{name} cannot be read: {error.strerror}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelFileError(f"{name} is not JSON: {error}.") from error
