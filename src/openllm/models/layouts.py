"""What a model of each format is on disk, and whether its files are what they say."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from glob import iglob
from typing import NamedTuple

import msgspec

from openllm.errors import ModelFileError
from openllm.models.folder import read_folder
from openllm.models.gguf import read_header
from openllm.models.store import blamed
from openllm.types import LocalModel, ModelFormat

MAX_SCRIPT_BYTES = 16 * 1024 * 1024


def format_at(path: str) -> ModelFormat | None:
    """Return the format of what lies, or would lie, at `path`; None if it is no model's."""
    return next((layout.format for layout in _LAYOUTS if layout.fits(path)), None)


def endings() -> tuple[str, ...]:
    """Return what the names of model files end with."""
    return tuple(layout.ending for layout in _LAYOUTS if layout.ending)


def folder_contents() -> str:
    """Say what a model folder holds."""
    return ", nor ".join(" and ".join(layout.holds) for layout in _LAYOUTS if layout.holds)


def models_in(folder: str) -> Iterator[str]:
    """Yield the names of the model files in `folder`."""
    for each in endings():
        yield from sorted(name for name in iglob(f"*{each}", root_dir=folder))


def check_files(
    model: LocalModel, *, trust_remote_code: bool = False, weights: bool = True
) -> None:
    """Check that the model's files are what they say; raises `ModelFileError` if not.

    A GGUF file's header is read wholly, of a folder all but the weights themselves, which without
    `weights` may be missing; of a script only that it is JSON; of files for an engine of the
    user's own that they are there. A folder with code of its own is refused unless that is
    trusted.
    """
    if model.format == "other":
        _check_there(model.path)
        return
    layout = next(layout for layout in _LAYOUTS if layout.format == model.format)
    with blamed(model.tag):
        layout.check(model.path, trust_remote_code, weights)


def _check_there(path: str) -> None:
    if not os.path.exists(path):
        raise ModelFileError(f"{path} does not exist; correct the path of the registered model.")


def _check_gguf(path: str, _trust: bool, _weights: bool) -> None:
    read_header(path)


def _check_folder(path: str, trust: bool, weights: bool) -> None:
    read_folder(path, trust_remote_code=trust, weights=weights)


def _check_json(path: str, _trust: bool, _weights: bool) -> None:
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
        check: Takes the path, whether code in it is trusted and whether there must be weights;
            raises `ModelFileError` if the content is wrong.
        ending: Of a file: what its name ends with.
        holds: Of a folder: patterns that each match the name of a file in it.
    """

    format: ModelFormat
    check: Callable[[str, bool, bool], None]
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
