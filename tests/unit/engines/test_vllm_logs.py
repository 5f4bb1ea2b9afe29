"""What vLLM's processes log comes through a pipe into our own log."""

from __future__ import annotations

import json
import logging
import logging.config
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from openllm.engines.library_errors import LIMIT
from openllm.engines.vllm_child import MAX_BYTES, ChildHandler, encode
from openllm.engines.vllm_logs import LogPipe

OURS = "openllm.engines.vllm"


@pytest.fixture
def pipe(caplog: pytest.LogCaptureFixture) -> Iterator[LogPipe]:
    caplog.set_level(logging.INFO, OURS)
    pipe = LogPipe()
    yield pipe
    pipe.close()


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(level, message) for name, level, message in caplog.record_tuples if name == OURS]


def log(pipe: LogPipe, level: int, message: str, error: Exception | None = None) -> None:
    """Log as a process of vLLM does, then close the pipe, so that all has been read."""
    (handler,) = json.loads(Path(pipe.config).read_text())["handlers"].values()
    child = ChildHandler(handler["pipe"], handler["owner"])
    child.emit(logging.LogRecord("vllm.x", level, "", 1, message, (), _info(error)))
    child.close()
    pipe.close()


def _info(error: Exception | None) -> tuple[type[Exception], Exception, None] | None:
    return (type(error), error, None) if error is not None else None


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Starting to load model /models/m...", "loading weights"),
        ("Loading weights took 12.5 seconds", "weights loaded in 12.5 s"),
        ("Warming up model for the compilation...", "compiling; the first time takes a minute"),
    ],
)
def test_phases_are_told_in_our_words(
    pipe: LogPipe, caplog: pytest.LogCaptureFixture, message: str, words: str
) -> None:
    log(pipe, logging.INFO, message)
    ((level, text),) = said(caplog)
    assert level == logging.INFO
    assert text.startswith(words)


def test_other_information_is_not_told(pipe: LogPipe, caplog: pytest.LogCaptureFixture) -> None:
    log(pipe, logging.INFO, "Using LBHNC KV cache layout.")
    assert said(caplog) == []


def test_warnings_are_told(pipe: LogPipe, caplog: pytest.LogCaptureFixture) -> None:
    log(pipe, logging.WARNING, "something is odd")
    assert said(caplog) == [(logging.WARNING, "vLLM: something is odd")]


def test_warnings_of_what_is_meant_to_be_so_are_not(
    pipe: LogPipe, caplog: pytest.LogCaptureFixture
) -> None:
    log(pipe, logging.WARNING, "Enforce eager set, disabling torch.compile")
    assert said(caplog) == []


def test_all_is_told_to_those_who_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, OURS)
    pipe = LogPipe()
    log(pipe, logging.INFO, "Using LBHNC KV cache layout.")
    assert said(caplog) == [(logging.DEBUG, "vLLM: Using LBHNC KV cache layout.")]


def test_the_first_exception_is_remembered(pipe: LogPipe, caplog: pytest.LogCaptureFixture) -> None:
    log(pipe, logging.ERROR, "EngineCore failed to start.", RuntimeError("no weights"))
    assert pipe.first_error == "RuntimeError: no weights"
    assert said(caplog) == [
        (logging.ERROR, "vLLM: EngineCore failed to start. (RuntimeError: no weights)")
    ]


def test_a_line_is_never_longer_than_a_pipe_writes_at_once() -> None:
    for text in ("\0" * 10_000, "日" * 10_000, "x" * 10_000):
        error = ValueError(text)
        record = logging.LogRecord("v", logging.ERROR, "", 1, text, (), _info(error))
        line = encode(record)
        assert len(line) <= MAX_BYTES
        assert json.loads(line)["level"] == logging.ERROR


def test_closing_twice_is_safe_and_leaves_no_file(pipe: LogPipe) -> None:
    pipe.close()
    pipe.close()
    assert not Path(pipe.folder).exists()


def test_a_handler_whose_reader_is_gone_drops_what_it_gets(pipe: LogPipe) -> None:
    (handler,) = json.loads(Path(pipe.config).read_text())["handlers"].values()
    child = ChildHandler(handler["pipe"], handler["owner"])
    pipe.close()
    child.emit(logging.LogRecord("vllm.x", logging.ERROR, "", 1, "late", (), None))
    child.close()


def test_the_configuration_works_in_another_process(
    pipe: LogPipe, caplog: pytest.LogCaptureFixture
) -> None:
    program = (
        "import json, logging, logging.config, sys;"
        "logging.config.dictConfig(json.load(open(sys.argv[1])));"
        "logging.getLogger('vllm.core').warning('%s is odd', 'this')"
    )
    subprocess.run([sys.executable, "-c", program, pipe.config], check=True)
    pipe.close()
    assert said(caplog) == [(logging.WARNING, "vLLM: this is odd")]


def test_an_error_is_one_line_of_bounded_length(
    pipe: LogPipe, caplog: pytest.LogCaptureFixture
) -> None:
    error = ValueError("\n".join(f"model.layers.{number}.weight" for number in range(1000)))
    log(pipe, logging.ERROR, "EngineCore failed:\n" + "x" * 900, error)
    ((_, text),) = said(caplog)
    assert text.startswith("vLLM: EngineCore failed: xxx")
    assert "(ValueError: model.layers.0.weight model.layers.1.weight" in text
    assert "\n" not in text
    assert len(text) < 2 * LIMIT + 20
    assert pipe.first_error is not None
    assert len(pipe.first_error) <= LIMIT
