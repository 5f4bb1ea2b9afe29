"""What in a model folder would run as code: found by reading, before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from openllm.models.folder_files import FolderFiles, settings
from openllm.models.folder_tokens import SETTINGS
from openllm.models.gguf_window import shown

MAX_CODE_BYTES = 16 * 1024 * 1024


def refuse_code(files: FolderFiles, objects: Mapping[str, dict[str, Any]]) -> None:
    """Fail if loading the model or its tokenizer would run code from the folder or from a hub.

    Args:
        files: The folder.
        objects: What its files of settings hold, by their names.

    Raises:
        ModelFileError: It would; names the file, the setting and the option that allows it.
    """
    for name, read in objects.items():
        _refuse_settings(files, name, read)
    _refuse_tokenizer(files, objects.get(SETTINGS, {}))


def _refuse_settings(files: FolderFiles, name: str, read: dict[str, Any]) -> None:
    for path, key, value in settings(read):
        if key == "auto_map" and value:
            files.fail(
                name,
                f"asks by {shown(path)} for Python code of the model's own, which could do anything"
                " here; if you trust it, set trust_remote_code; if its architecture is part of"
                " transformers by now, remove auto_map and the .py files",
            )
        if key.endswith(("attn_implementation", "experts_implementation")) and "/" in str(value):
            files.fail(
                name,
                f"asks by {shown(path)} for the kernel {shown(str(value))}, code from a hub;"
                " remove it, or set trust_remote_code if you trust it",
            )


def _refuse_tokenizer(files: FolderFiles, tokenizer_settings: dict[str, Any]) -> None:
    """Fail if the tokenizer's class is written in the folder: without it, text would be misread."""
    kind = tokenizer_settings.get("tokenizer_class")
    if not isinstance(kind, str) or not kind:
        return
    wanted = re.compile(
        rb"^\s*class\s+" + re.escape(kind.encode("utf-8", "replace")) + rb"\b", re.MULTILINE
    )
    for name in files.names:
        if name.endswith(".py") and wanted.search(files.content(name, MAX_CODE_BYTES) or b""):
            files.fail(
                name,
                f"defines the tokenizer_class {shown(kind)} that {SETTINGS} names, Python code of"
                " the model's own; if you trust it, set trust_remote_code",
            )
