"""`openllm pull`: checks first, tags on stdout, progress on stderr, a status for each end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from openllm.bento import checks
from openllm.cli import main
from openllm.cli import pull as command
from openllm.config.download import DownloadOptions
from openllm.config.effective import Configuration
from openllm.errors import ConfigurationError, ModelNotFoundError, OpenLLMError
from openllm.models.pull import Progress
from openllm.types import LocalModel


def progress_of(
    phase: str, source: str = "org/one", file: str = "", done: int = 0, total: int = 100
) -> Progress:
    """Return what a download tells."""
    return Progress(phase, source, file, done, total)


class Fetches:
    """Stands for `bento.checks.fetch_each`."""

    def __init__(self, end: BaseException | None = None) -> None:
        self.end = end
        self.asked: list[str] = []
        self.download: DownloadOptions | None = None
        self.backend: str | None = None

    def __call__(
        self, configuration: Configuration, on_progress: Callable[[Any], None]
    ) -> Iterator[LocalModel]:
        for entry in configuration.entries:
            self.asked.append(entry.text)
            self.download, self.backend = entry.download, entry.config.load.backend
            on_progress(progress_of("listing", entry.text))
            on_progress(progress_of("downloading", entry.text, done=50))
            if self.end is not None and len(self.asked) == 2:
                raise self.end
            on_progress(progress_of("done", entry.text, done=100))
            tag = f"llamacpp-{entry.text.replace('/', '--')}:1"
            name, source = entry.name, entry.text
            yield LocalModel(name=name, path="/p", format="gguf", source=source, tag=tag)


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fetches:
    stand_in = Fetches()
    monkeypatch.setattr(checks, "fetch_each", stand_in)
    monkeypatch.setattr(command, "_look_up", lambda _: None)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    return stand_in


def pull(*arguments: str, **environ: str) -> Result:
    return CliRunner(env=environ).invoke(main, ["pull", *arguments])


def test_the_tags_are_all_that_stdout_has(fetches: Fetches) -> None:
    done = pull("org/one", "org/two")
    assert (done.exit_code, done.stdout) == (0, "llamacpp-org--one:1\nllamacpp-org--two:1\n")
    assert "org/one" in done.stderr
    assert fetches.asked == ["org/one", "org/two"]


def test_flags_environment_and_backend_reach_the_download(fetches: Fetches) -> None:
    done = pull(
        "org/one", "--download_parallel", "2", "--backend", "vllm", OPEN_LLM_DOWNLOAD_RETRIES="3"
    )
    assert done.exit_code == 0, done.stderr
    assert fetches.download is not None
    assert (fetches.download.download_parallel, fetches.download.download_retries) == (2, 3)
    assert fetches.backend == "vllm"


def test_json_is_one_event_a_line_and_the_tag_last(fetches: Fetches) -> None:
    done = pull("--json", "org/one")
    *steps, last = map(json.loads, done.stdout.splitlines())
    assert [step["phase"] for step in steps] == ["listing", "downloading", "done"]
    assert steps[1] == {
        "phase": "downloading", "source": "org/one", "file": "", "done": 50, "total": 100,
    }  # fmt: skip
    assert last["tag"] == "llamacpp-org--one:1"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (ConfigurationError("no such setting"), 2),
        (ModelNotFoundError("no such model"), 2),
        (OpenLLMError("hub down"), 1),
    ],
)
def test_an_error_is_one_line_and_a_status(
    fetches: Fetches, end: OpenLLMError, status: int
) -> None:
    fetches.end = end
    done = pull("org/one", "org/two")
    assert done.exit_code == status
    assert done.stdout == "llamacpp-org--one:1\n"
    assert done.stderr.splitlines()[-1] == f"Error: {end.message}"
    fetches.asked.clear()
    last = json.loads(pull("--json", "org/one", "org/two").stdout.splitlines()[-1])
    assert last["error"]["message"] == end.message


@pytest.mark.reliability("F-08")
def test_ctrl_c_says_that_nothing_is_lost(fetches: Fetches) -> None:
    fetches.end = KeyboardInterrupt()
    done = pull("org/one", "org/two")
    assert done.exit_code == 130
    assert "what has been downloaded is kept" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["org/one", "nothing-known"], ["org/one", "org/one"], ["org/one", "-x"],
        ["org/one", "../x"], ["org/one", "--download-parallel", "none"], [],
        ["org/one", "--download-paralel", "3"],
    ],
)  # fmt: skip
def test_a_mistake_anywhere_downloads_nothing(fetches: Fetches, arguments: list[str]) -> None:
    done = pull(*arguments)
    assert done.exit_code == 2
    assert "Error: " in done.stderr
    assert fetches.asked == []


def test_the_bundled_model_is_here_already(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    done = pull("demo")
    assert (done.exit_code, done.stderr) == (0, "")
    assert Path(done.stdout.strip()).name == "demo-q8_0.gguf"
    assert not list(tmp_path.iterdir())
