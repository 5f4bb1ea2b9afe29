"""Which of several values holds, and where it is said to come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from openllm.bento.options import blame, read_configuration
from openllm.config.effective import Configuration, Setting
from openllm.config.model import LoadOptions
from openllm.errors import ConfigurationError
from tests.lora import write_gguf

FILE = """\
top_k: 5
port: 81
models:
  {name}: {{model: demo, top_k: 4}}
  other: {{model: demo, top_k: 3}}
"""


def effective(
    models: str | None = "demo",
    options: Mapping[str, object] | None = None,
    file: Path | None = None,
    **variables: str,
) -> Configuration:
    environ = {f"OPEN_LLM_{name}": value for name, value in variables.items()}
    return read_configuration(models, options or {}, environ, file=str(file) if file else None)


@pytest.mark.spec("S0-31", "S0-33")
def test_each_source_wins_over_the_next(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(FILE.format(name="llama"))
    options: dict[str, object] = {"llama.top_k": 1, "top_k": 2}
    variables = {"LLAMA_TOP_K": "3", "TOP_K": "4"}
    found: list[Setting] = []
    while True:
        entry = effective("llama", options, file, **variables).entries[0]
        found.append(entry.settings["top_k"])
        assert entry.config.defaults.top_k == found[-1].value
        if not (options or variables):
            break
        source: dict[str, object] = options or variables  # type: ignore[assignment]
        del source[next(iter(source))]
    assert found == [
        (1, "--opt llama.top_k", "model"),
        (2, "--top-k", "all"),
        (3, "OPEN_LLM_LLAMA_TOP_K", "model"),
        (4, "OPEN_LLM_TOP_K", "all"),
        (4, f"{file}, line 4: models.llama.top_k", "model"),
    ]
    file.write_text("top_k: 5\n")
    settings = effective("demo", {}, file).entries[0].settings
    assert settings["top_k"] == (5, f"{file}, line 1: top_k", "all")
    assert effective().entries[0].settings["top_k"] == (None, "default", "")


@pytest.mark.spec("S0-33")
def test_what_a_registered_model_brings_is_before_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "openllm.llm.settings.defaults_of", lambda *_: {"top_k": 6, "temperature": 0.25}
    )
    settings = effective(TEMPERATURE="0.5").entries[0].settings
    assert settings["top_k"] == (6, "family demo", "")
    assert settings["temperature"] == (0.5, "OPEN_LLM_TEMPERATURE", "all")
    assert settings["top_p"] == (None, "default", "")


@pytest.mark.spec("S0-29")
def test_adapters_may_stand_below_their_names(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.gguf" for name in ("sql", "law")}
    for path in paths.values():
        write_gguf(path, {})
    file = tmp_path / "a.yaml"
    file.write_text(f"models: {{demo: {{lora: {{sql: {paths['sql']}, '': {paths['law']}}}}}}}")
    (entry,) = effective(None, file=file).entries
    assert entry.config.load.lora == (f"sql={paths['sql']}", str(paths["law"]))
    assert entry.settings["lora"].value == entry.config.load.lora
    assert LoadOptions(lora={"sql": paths["sql"]}).lora == (f"sql={paths['sql']}",)


def test_every_model_has_settings_of_its_own() -> None:
    options = {"b.backend": "scripted", "backend": "llamacpp", "a.dtype": "float16", "b.offline": 1}
    one, two = effective("a=demo,b=demo", options).entries
    assert (one.config.load.backend, two.config.load.backend) == ("llamacpp", "scripted")
    assert (one.config.load.dtype, two.config.load.dtype) == ("float16", "auto")
    assert (one.download.offline, two.download.offline) == (False, True)


@pytest.mark.spec("S0-36")
def test_gpu_is_cuda_whoever_says_it() -> None:
    one, two = effective("a=demo,b=demo", {"device": ("a:gpu:0", "b:cpu")}).entries
    assert (one.config.load.device, two.config.load.device) == ("cuda:0", "cpu")
    assert effective(DEVICE="gpu").entries[0].config.load.device == "cuda"


@pytest.mark.spec("S0-36")
@pytest.mark.parametrize("form", ["a:gpu:0,b:cpu", '["a:gpu:0", "b:cpu"]'])
def test_a_device_of_one_model_means_the_same_everywhere(form: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"device: {form}")
    for found in (effective("a=demo,b=demo", DEVICE=form), effective("a=demo,b=demo", file=file)):
        assert [each.config.load.device for each in found.entries] == ["cuda:0", "cpu"]
        assert [each.settings["device"].scope for each in found.entries] == ["model", "model"]


@pytest.mark.spec("S0-32", "S3-43")
def test_without_a_model_the_file_says_what_is_served(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(FILE.format(name="llama"))
    named = [each.text for each in effective(None, CONFIGURATION=str(file)).entries]
    assert named == ["llama=demo", "other=demo"]
    assert [each.text for each in effective(str(file)).entries] == named
    assert [each.text for each in effective(None, {}, file).entries] == named
    assert [each.text for each in effective(None, {}, file, MODELS="demo").entries] == ["demo"]
    assert [each.text for each in effective(None).entries] == ["demo"]


def test_a_named_model_is_the_one_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(FILE.format(name="llama"))
    (entry,) = effective("llama", {}, file).entries
    assert (entry.text, entry.config.defaults.top_k) == ("llama=demo", 4)


def test_two_files_are_one_too_many(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("")
    with pytest.raises(ConfigurationError, match="are both files; leave one out"):
        effective(str(file), {}, file)


def test_a_flag_counts_before_the_file_that_the_environment_names(tmp_path: Path) -> None:
    one, two = tmp_path / "a.yaml", tmp_path / "b.yaml"
    one.write_text("port: 81")
    two.write_text("port: 82")
    assert effective("demo", {}, two, CONFIGURATION=str(one)).server.port == 82


@pytest.mark.spec("S0-30")
def test_the_example_of_the_documents_with_the_name_corrected() -> None:
    (entry,) = effective(
        "bloom=demo", STOP_SEQUENCE="0.234", BLOOM_FREQUENCY_PENALTY="0.123"
    ).entries
    defaults = entry.config.defaults
    assert (defaults.stop_sequence, defaults.frequency_penalty) == (("0.234",), 0.123)


@pytest.mark.parametrize(
    ("message", "param", "told"),
    [
        ("--port 1 is low", "port", "a.yaml, line 1: port 1 is low"),
        ("it is low", "port", "a.yaml, line 1: port: it is low"),
        ("it is odd", "host", "--host: it is odd"),
        ("--host is odd", "host", "--host is odd"),
        ("it is new", "other", "it is new"),
        ("it is so", None, "it is so"),
    ],
)
def test_a_later_error_names_where_the_option_was_given(
    message: str, param: str | None, told: str
) -> None:
    settings = {"port": Setting(1, "a.yaml, line 1: port"), "host": Setting("x", "default")}
    assert blame(ConfigurationError(message, param=param), settings) == told
