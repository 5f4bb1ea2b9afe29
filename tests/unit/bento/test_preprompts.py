"""`--prompt`: what is a file, what is a text, and what could have been meant as the other."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from openllm.bento.checks import check
from openllm.bento.options import read_configuration
from openllm.errors import ConfigurationError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pre.txt").write_text("Speak like a pirate.")
    return tmp_path


def warnings_of(caplog: pytest.LogCaptureFixture, file: str | None = None, **options: str) -> str:
    with caplog.at_level(logging.WARNING, "openllm"):
        check(read_configuration("demo", options, {}, file=file))
    return "\n".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("prompt", ["nofile.txt", "prompts/pirate", "pirate.md"])
def test_a_prompt_like_the_path_of_no_file_is_told(
    prompt: str, caplog: pytest.LogCaptureFixture
) -> None:
    told = f"--prompt {prompt!r}: there is no such file, so these words are the prompt"
    assert warnings_of(caplog, prompt=prompt) == told


@pytest.mark.parametrize(
    "prompt",
    [
        "You are a pirate.",
        "See notes/pirate.txt first.",
        "Line\nfile.txt",
        "Ahoy",
        "Ahoy.",
        "Ahoy...",
        "pre.txt",
        "./pre.txt",
        " /no_think",
        "/no_think Be brief.",
        "/no_think\nBe brief",
    ],
)
def test_others_are_not(prompt: str, caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(caplog, prompt=prompt) == ""


def test_the_warning_has_the_line_of_the_file(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    (here / "a.yaml").write_text("models:\n  demo:\n    prompt: nofile.txt\n")
    told = warnings_of(caplog, "a.yaml")
    assert told.startswith("a.yaml, line 3: models.demo.prompt 'nofile.txt': there is no such file")


@pytest.mark.parametrize(
    "prompt", ["/nope/x.txt", "./missing", "../missing.txt", "~/missing", "/", "/nope/my file.txt"]
)
def test_what_has_the_form_of_a_path_must_be_a_file(prompt: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        check(read_configuration("demo", {"prompt": prompt}, {}))
    assert raised.value.message == (
        f"--prompt: there is no prompt file {prompt!r}; correct the path, or put a blank before it"
        " if these words are the prompt"
    )


def test_of_a_model_that_is_not_here_it_is_told_before_the_download(here: Path) -> None:
    (here / "a.yaml").write_text("models:\n  name: {model: org/name, prompt: ./missing.txt}\n")
    with pytest.raises(ConfigurationError, match=r"line 2: models\.name\.prompt: there is no"):
        check(read_configuration(None, {}, {}, file="a.yaml"))


def test_a_file_that_is_no_text_is_refused(here: Path) -> None:
    path = here / "latin1.txt"
    path.write_bytes("Grüße".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"latin1\.txt"):
        check(read_configuration("demo", {"prompt": str(path)}, {}))
