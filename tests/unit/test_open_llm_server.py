"""The façade with document S0's names."""

from __future__ import annotations

import subprocess
import sys

import pytest

import open_llm_server
import openllm


def test_its_names_are_those_of_openllm() -> None:
    assert open_llm_server.start is openllm.start
    assert open_llm_server.__version__ == openllm.__version__
    with pytest.raises(AttributeError, match="nothing"):
        open_llm_server.nothing  # noqa: B018


def test_importing_it_loads_no_server() -> None:
    code = "import sys, open_llm_server; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"bentoml", "starlette", "uvicorn", "pydantic"} & set(loaded)
