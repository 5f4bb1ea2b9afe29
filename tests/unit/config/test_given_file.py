"""Files that are read several times, though a pipe gives its bytes but once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openllm.bento.options import read_configuration
from openllm.config.given_file import content_of
from openllm.config.model import ModelConfig, RequestDefaults
from openllm.errors import ConfigurationError
from openllm.llm.chat_engine import ChatEngine
from openllm.llm.preprompt import is_like_a_file, preprompt_text
from openllm.runner.process import RunnerProcess
from openllm.server.auth import load_api_keys
from openllm.types import GenerateRequest, LocalModel, Message, SamplingParams

Pipe = Callable[[str], str]
SCRIPT = LocalModel(name="t", path="t.script.json", format="script")


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Return what makes a pipe with a text, and its path, as the shell does for `<(command)`."""
    opened: list[int] = []

    def make(text: str) -> str:
        reading, writing = os.pipe()
        opened.append(reading)
        os.write(writing, text.encode())
        os.close(writing)
        return f"/dev/fd/{reading}"

    yield make
    for number in opened:
        os.close(number)


def test_a_pipe_is_kept_and_a_file_is_not(tmp_path: Path, pipe: Pipe) -> None:
    one, two = pipe("one"), pipe("two")
    for _ in range(2):
        assert (content_of(Path(one)), content_of(Path(two))) == (b"one", b"two")
    file = tmp_path / "file"
    for text in ("first", "second"):
        file.write_text(text)
        assert content_of(file) == text.encode()
    assert content_of(file, 3) == b"sec"


@pytest.mark.spec("S0-32")
def test_settings_and_keys_come_through_pipes_and_stay(pipe: Pipe) -> None:
    keys = pipe("# ours\nsecret\n")
    file = pipe(f"api_key_file: {keys}\nport: 5001\nmodels: demo\n")
    for _ in range(3):  # As for the checks, for serving and after SIGHUP.
        server = read_configuration(None, {}, {}, file=file).server
        assert (server.port, server.keyed) == (5001, True)
        assert load_api_keys(server.api_key, server.api_key_file)


def test_a_pre_prompt_comes_through_a_pipe_and_stays(pipe: Pipe) -> None:
    path = pipe("Be brief.\nä")
    config = ModelConfig(defaults=RequestDefaults(prompt=path))
    for _ in range(2):  # As for the checks, and again after a crash.
        assert preprompt_text(path) == "Be brief.\nä"
    assert not is_like_a_file(path)
    process = RunnerProcess(SCRIPT, config)
    # The child cannot read it, so it is told the text.
    assert process._launch.preprompt == "Be brief.\nä"
    shutil.rmtree(process._folder)


@pytest.mark.anyio
async def test_a_pre_prompt_that_was_read_is_not_read_again(tmp_path: Path) -> None:
    script = tmp_path / "t.script.json"
    script.write_text('{"rules": [], "default": {"reply": "{system}"}}')
    gone = ModelConfig(defaults=RequestDefaults(prompt=str(tmp_path / "gone.txt")))
    engine = ChatEngine(LocalModel(name="t", path=str(script), format="script"), gone, "Be brief.")
    await engine.start()
    try:
        messages = (Message("user", "hi"),)
        stream = engine.generate(
            GenerateRequest(request_id="r", messages=messages, params=SamplingParams())
        )
        assert "".join([chunk.text async for chunk in stream]) == "Be brief."
    finally:
        await engine.close()


def test_openssl_cannot_read_a_pipe(pipe: Pipe) -> None:
    path = pipe("-----BEGIN CERTIFICATE-----")
    with pytest.raises(ConfigurationError, match=f"--ssl-certfile '{path}': this is no plain file"):
        read_configuration("demo", {"ssl_certfile": path}, {})
