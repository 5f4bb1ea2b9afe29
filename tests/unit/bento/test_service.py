"""The service for BentoML's own commands reads the same settings."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import openllm.bento.service as service
print([(each.name, each.config.defaults.top_k) for each in service._given.entries])
"""


def load(**variables: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if "OPEN_LLM" not in name}
    environ |= {f"OPEN_LLM_{name}": value for name, value in variables.items()}
    return subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, timeout=60,
        env=environ,
    )  # fmt: skip


def test_the_environment_says_what_and_how() -> None:
    done = load(MODELS="a=demo,b=demo", TOP_K="3", B_TOP_K="4")
    assert (done.returncode, done.stdout) == (0, "[('a', 3), ('b', 4)]\n"), done.stderr


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PORT", "80", "OPEN_LLM_PORT: this is for `openllm start`; give it to `bentoml serve`"),
        ("PROT", "80", "did you mean OPEN_LLM_PORT?"),
        ("MODELS", "dmeo", "OPEN_LLM_MODELS: Unknown model 'dmeo'"),
    ],
)
def test_what_would_have_no_effect_is_refused(name: str, value: str, says: str) -> None:
    done = load(**{name: value})
    assert done.returncode == 1
    assert says in done.stderr
