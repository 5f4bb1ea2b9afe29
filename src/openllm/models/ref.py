"""Which model a text means: parsed once, printed back the same, resolved to a file.

A model is named by `demo` (any bundled name), by the path of a `.gguf` file or of a
`.script.json` file for the scripted engine, or by `NAME=` before either to choose the name that
requests use; the table of layouts has every form a model can have on disk. No file is opened here
before `check_files`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from glob import iglob
from typing import NamedTuple

import msgspec

from openllm.errors import ConfigurationError, ModelFileError
from openllm.models.folder import read_folder
from openllm.models.gguf import read_header
from openllm.models.registry import BUNDLED, MAX_NAME_LENGTH, Registry, is_model_name
from openllm.types import LocalModel, ModelFormat

MAX_LENGTH = 4096
MAX_SCRIPT_BYTES = 16 * 1024 * 1024

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
    """Return the local model that `text` means; `check_files` checks its content.

    Raises:
        ConfigurationError: No such name is known, the text is a hub id, or what it names has not
            the layout of a model or no name that requests could use.
        ModelFileError: There is no such file, or the folder holds no model.
    """
    ref = parse_ref(text)
    known = registry.path(ref.source)
    path = known or os.path.abspath(os.path.expanduser(ref.source))
    layout = _layout(path)
    if layout is None:
        raise _unknown(ref.source, path, registry)
    if known is None and not os.path.isfile(path) and not os.path.isdir(path):
        what = "is no regular file" if os.path.exists(path) else "does not exist"
        raise ModelFileError(f"The model file {ref.source} {what}; correct the path.")
    name = ref.name or (ref.source if known else os.path.basename(path).removesuffix(layout.ending))
    if not is_model_name(name):
        raise _bad_name(name, path)
    return LocalModel(name=name, path=path, format=layout.format)


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


def check_files(model: LocalModel, *, trust_remote_code: bool = False) -> None:
    """Check that the model's files are what they say; raises `ModelFileError` if not.

    A GGUF file's header is read wholly, of a folder all but the weights themselves; of a script
    only that it is JSON. A folder with code of its own is refused unless that is trusted.
    """
    layout = next(layout for layout in _LAYOUTS if layout.format == model.format)
    layout.check(model.path, trust_remote_code)


def _check_gguf(path: str, _trust: bool) -> None:
    read_header(path)


def _check_folder(path: str, trust: bool) -> None:
    read_folder(path, trust_remote_code=trust)


def _check_json(path: str, _trust: bool) -> None:
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


class _Layout(NamedTuple):
    """What a model of one format is on disk.

    Attributes:
        check: Takes the path and whether code in it is trusted; raises `ModelFileError` if the
            content is wrong.
        ending: Of a file: what its name ends with.
        holds: Of a folder: patterns that each match the name of a file in it.
    """

    format: ModelFormat
    check: Callable[[str, bool], None]
    ending: str = ""
    holds: tuple[str, ...] = ()

    def fits(self, path: str) -> bool:
        """Whether this is what lies, or would lie, at `path`."""
        if not os.path.isdir(path):
            return bool(self.ending) and path.endswith(self.ending)
        return bool(self.holds) and all(any(iglob(each, root_dir=path)) for each in self.holds)


_LAYOUTS = (
    _Layout("gguf", _check_gguf, ending=".gguf"),
    _Layout("safetensors", _check_folder, holds=("config.json",)),
    _Layout("script", _check_json, ending=".script.json"),
)


def _layout(path: str) -> _Layout | None:
    return next((layout for layout in _LAYOUTS if layout.fits(path)), None)


def _bad_name(name: str, source: str) -> ConfigurationError:
    allowed = f"letters, digits, _ : . and -, at most {MAX_NAME_LENGTH} of them"
    better = re.sub(r"[^A-Za-z0-9_:.]+|\.{2,}", "-", name).strip("-.")[:MAX_NAME_LENGTH] or "NAME"
    return ConfigurationError(
        f"{name[:80]!r} cannot be the name of a model ({allowed}); write {better}={source}."
    )


def _unknown(source: str, path: str, registry: Registry) -> ConfigurationError:
    endings = " or ".join(layout.ending for layout in _LAYOUTS if layout.ending)
    if os.path.isdir(path):
        return _no_model_folder(source, path)
    if os.path.exists(path):
        return ModelFileError(
            f"The file {source} is not a GGUF file or a script: its name does not end with"
            f" {endings}."
        )
    if _HUB_ID.fullmatch(source):
        return ConfigurationError(
            f"{source} is an id of a model hub, and this version serves the bundled model and"
            " local files only; download it and give the path of its folder or .gguf file."
        )
    if "/" in source or source.startswith((".", "~")):
        return ModelFileError(
            f"There is no file or folder {source}; the name of a model file ends with {endings}."
        )
    close = difflib.get_close_matches(source[:MAX_NAME_LENGTH].lower(), registry, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return ConfigurationError(
        f"Unknown model {source[:80]!r}.{hint} Known models: {', '.join(registry)};"
        " or give the path of a .gguf file."
    )


def _no_model_folder(source: str, path: str) -> ModelFileError:
    """Say what the folder lacks, and which models lie in it."""
    endings = [layout.ending for layout in _LAYOUTS if layout.ending]
    inside = [name for each in endings for name in sorted(iglob(f"*{each}", root_dir=path))]
    needs = [" and ".join(layout.holds) for layout in _LAYOUTS if layout.holds]
    lack = f": it does not hold {', nor '.join(needs)}" if needs else ""
    fix = f"give the path of a {endings[0]} file"
    if inside and inside[0].isprintable():
        fix = f"for the model in it give {os.path.join(source, inside[0])}"
    return ModelFileError(f"The folder {source} is not a model{lack}; {fix}.")
