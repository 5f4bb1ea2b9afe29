"""`openllm start` up to the point where it would serve: flags, errors, exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from openllm.bento import launch
from openllm.cli import main
from openllm.config.effective import Configuration
from openllm.config.fields import OPTION_MODELS
from openllm.errors import (
    AddressInUseError,
    ConfigurationError,
    EngineNotInstalledError,
    ModelFileError,
    ModelNotFoundError,
)


class Launches:
    """Stands for `launch.run`; remembers what it was given."""

    def __init__(self, end: int | Exception) -> None:
        self._end = end
        self.configuration: Configuration | None = None

    def run(self, configuration: Configuration, read: object, on_progress: object) -> int:
        assert callable(read)
        assert callable(on_progress)
        self.configuration = configuration
        if isinstance(self._end, Exception):
            raise self._end
        return self._end

    @property
    def given(self) -> dict[str, Any]:
        """Every setting that is no default."""
        assert self.configuration is not None
        settings = {**self.configuration.settings, **self.configuration.entries[0].settings}
        return {name: each.value for name, each in settings.items() if each.origin != "default"}


def start(
    monkeypatch: pytest.MonkeyPatch, *arguments: str, end: int | Exception = 0, **environment: str
) -> tuple[Result, Launches]:
    launches = Launches(end)
    monkeypatch.setattr(launch, "run", launches.run)
    monkeypatch.setattr("openllm.cli.start._set_up_logging", lambda _: None)
    return CliRunner(env=environment).invoke(main, ["start", *arguments]), launches


def test_only_flags_that_are_given_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    _, launches = start(monkeypatch)
    assert launches.configuration is not None
    assert [each.name for each in launches.configuration.entries] == ["demo"]
    assert launches.given == {}


@pytest.mark.spec("S0-22", "S0-29")
@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (["--top_k", "7"], {"top_k": 7}),
        (["--top-k", "7"], {"top_k": 7}),
        (["--opt", "top-k=7"], {"top_k": 7}),
        (["--opt", "demo.top-k=7"], {"top_k": 7}),
        (["--stop-sequence", "a", "--stop_sequence", "b"], {"stop_sequence": ("a", "b")}),
        (["--stop", "--"], {"stop_sequence": ("--",)}),
        (["--opt", "stop_sequence=a", "--opt", "stop-sequence=b"], {"stop_sequence": ("a", "b")}),
        (["--opt", "demo.stop=a=b"], {"stop_sequence": ("a=b",)}),
        (["--opt", "engine-arg=a=1"], {"engine_arg": ("a=1",)}),
        (["--device", "demo:gpu:0"], {"device": "cuda:0"}),
        (["--max-model-len", "64"], {"context_length": 64}),
        (["--max_model_len", "64"], {"context_length": 64}),
        (["--opt", "demo.max-model-len=64"], {"context_length": 64}),
        (["--dtype", "half"], {"dtype": "float16"}),
        (["--gpu_memory_utilization", "0.5"], {"gpu_memory_utilization": 0.5}),
        (["--opt", "demo.device=cpu"], {"device": "cpu"}),
        (["--no-embeddings"], {"embeddings": False}),
        (["--no_trust_remote_code"], {"trust_remote_code": False}),
        (["--access_log"], {"access_log": True}),
        (["--log-level", "debug"], {"log_level": "debug"}),
        (["--download_rate", "2048"], {"download_rate": 2048}),
    ],
)
def test_flags_become_settings(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], settings: dict[str, Any]
) -> None:
    done, launches = start(monkeypatch, *arguments)
    assert done.exit_code == 0, done.stderr
    assert launches.given == settings


@pytest.mark.spec("S2-12")
@pytest.mark.parametrize("flag", ["--model", "--model-path", "--model_path"])
def test_a_model_may_be_named_by_a_flag(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    for arguments, names in (
        ([flag, "demo"], ["demo"]),
        ([f"{flag}=org/name", flag, "two=demo"], ["name", "two"]),
        ([flag, "org/name,two=demo"], ["name", "two"]),
    ):
        done, launches = start(monkeypatch, *arguments)
        assert done.exit_code == 0, done.stderr
        assert launches.configuration is not None
        assert [each.name for each in launches.configuration.entries] == names


@pytest.mark.parametrize(
    "models", [["org/name", "two=demo"], ["org/name,two=demo"], ["org/name,", "two=demo"]]
)
def test_blanks_separate_models_as_commas_do(
    monkeypatch: pytest.MonkeyPatch, models: list[str]
) -> None:
    done, launches = start(monkeypatch, *models, "--top-k", "7")
    if models[0].endswith(","):
        assert (done.exit_code, "has an empty entry" in done.stderr) == (2, True)
        return
    assert done.exit_code == 0, done.stderr
    assert launches.configuration is not None
    assert [each.name for each in launches.configuration.entries] == ["name", "two"]


def test_a_configuration_beside_models_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for models in (["demo", "a.yaml"], ["a.yaml", "b.yaml"]):
        done, launches = start(monkeypatch, *models)
        assert (done.exit_code, launches.configuration) == (2, None)
        assert "'a.yaml' is a configuration, which stands alone" in done.stderr


@pytest.mark.spec("S2-12")
def test_a_model_in_both_ways_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    done, launches = start(monkeypatch, "demo", "--model-path", "org/name")
    assert (done.exit_code, launches.configuration) == (2, None)
    assert "given twice, as 'demo' and --model 'org/name'; leave one out" in done.stderr


@pytest.mark.spec("S2-21")
def test_the_store_and_the_revision_are_flags(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    flags = ("--download-dir", str(tmp_path / "x"), "--revision", "v1")
    done, launches = start(monkeypatch, "org/name", *flags)
    assert done.exit_code == 0, done.stderr
    assert os.environ["BENTOML_HOME"] == str(tmp_path / "x")
    assert launches.configuration is not None
    assert launches.configuration.entries[0].text == "name=org/name@v1"


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    _, launches = start(monkeypatch, OPEN_LLM_API_KEY="one two")
    assert launches.given == {"api_key": ("one", "two")}


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        (0, 0, ""),
        (1, 1, ""),
        (2, 2, ""),
        (ConfigurationError("it is wrong"), 2, "Error: it is wrong\n"),
        (EngineNotInstalledError("run: pip install it"), 1, "Error: run: pip install it\n"),
        (AddressInUseError("choose --port", param="port"), 2, "Error: choose --port\n"),
        (
            ConfigurationError("'a b' is no name", param="allowed_host"),
            2,
            "Error: --allowed-host: 'a b' is no name\n",
        ),
        (ConfigurationError("unknown option 'x'", param="x"), 2, "Error: unknown option 'x'\n"),
        (ModelFileError("it is cut off"), 2, "Error: it is cut off\n"),
        (ModelNotFoundError("correct the name"), 2, "Error: correct the name\n"),
    ],
)
def test_the_end_decides_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, end: int | Exception, status: int, said: str
) -> None:
    done, _ = start(monkeypatch, end=end)
    assert (done.exit_code, done.stdout, done.stderr) == (status, "", said)


@pytest.mark.parametrize("opt", ["x", "=x", "", ".top_k=1", "demo.=1"])
def test_an_opt_without_a_name_or_value_is_refused(
    monkeypatch: pytest.MonkeyPatch, opt: str
) -> None:
    done, _ = start(monkeypatch, "--opt", opt)
    assert done.exit_code == 2
    assert "is not NAME=VALUE" in done.stderr


def test_help_has_every_option_once_and_its_choices() -> None:
    text = CliRunner().invoke(main, ["start", "--help"], terminal_width=200).stdout
    for model in OPTION_MODELS:
        for name in model.model_fields:
            assert text.count(f"\n  --{name.replace('_', '-')} ") == 1
    assert "--top_k" not in text
    assert "[auto|float32|bfloat16|float16|half|float]" in text
    assert "\n  --model, --model-path MODEL " in text
    for other in ("max-model-len", "download-dir", "freq-penalty"):
        assert f"--{other}" not in text
    assert "0 picks a free one, and the ready line is then JSON" in " ".join(text.split())
    for heading in ("Options", "Server", "Loading", "Requests that leave it out", "Downloads"):
        assert f"\n{heading}:\n" in text


def test_help_loads_no_heavy_module() -> None:
    code = (
        "import sys\nfrom openllm.cli import main\n"
        "try: main(['start', '--help'])\nexcept SystemExit: pass\n"
        "print(sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("torch", "bentoml", "xllamacpp", "uvicorn", "huggingface_hub", "yaml", "jinja2"):
        assert f"'{heavy}'" not in done.stderr
