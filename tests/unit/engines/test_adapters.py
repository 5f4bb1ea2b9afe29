"""An adapter is the files of one prefix: it sees no other, and what serves several sees none."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from openllm import engines

FOLDER = Path(engines.__file__).parent
ADAPTERS = ("llamacpp", "scripted", "torch", "vllm")
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def adapter_of(name: str) -> str | None:
    return next((each for each in ADAPTERS if name.startswith(f"{each}_")), None)


def imported(source: str) -> Iterator[str]:
    """Yield the modules of the room that a file imports, in functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == engines.__name__:
            yield from (each.name for each in node.names)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            named = [each.name for each in node.names]
            found = [node.module or ""] if isinstance(node, ast.ImportFrom) else named
            yield from (each.split(".")[2] for each in found if each.startswith("openllm.engines."))


@pytest.mark.parametrize("name", NAMES)
def test_no_file_sees_another_adapter(name: str) -> None:
    seen = {adapter_of(each) for each in imported((FOLDER / f"{name}.py").read_text())}
    assert seen <= {None, adapter_of(name)}


@pytest.mark.parametrize(
    "line",
    [
        "from openllm.engines.torch_load import load_model",
        "from openllm.engines import base, torch_load",
        "import openllm.engines.torch_load",
        "def later():\n    from openllm.engines import torch_load as load",
    ],
)
def test_every_kind_of_import_is_seen(line: str) -> None:
    assert "torch" in {adapter_of(each) for each in imported(line)}
