"""`openllm config`: show, check, schema, docs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner, Result

from openllm.cli import main
from openllm.cli.config import show
from openllm.cli.start import start
from openllm.config.download import DEFAULT_ENDPOINT
from openllm.config.fields import FIELDS, MODEL_FIELDS, flags, other_names
from openllm.config.names import variable

PAGE = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()

FILE = """\
port: 81
api_key: [SECRET1]
models:
  coder: {model: demo, temperature: 0.25}
  demo:
"""


def config(*arguments: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(main, ["config", *arguments])


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(FILE)
    return "a.yaml"


def rows(text: str) -> list[list[str]]:
    return [line.split(None, 2) for line in text.splitlines()]


def test_show_has_every_value_with_its_origin(file: str) -> None:
    done = config("show", file, "--opt", "demo.top-k=3", OPEN_LLM_SEED="7")
    assert done.exit_code == 0
    server, coder, demo = done.stdout.split("\n\n")
    assert ["port", "81", "a.yaml, line 1: port"] in rows(server)
    assert ["host", "127.0.0.1", "default"] in rows(server)
    assert coder.startswith("model coder (coder=demo)\n")
    assert ["temperature", "0.25", "a.yaml, line 4: models.coder.temperature"] in rows(coder)
    assert ["top_k", "3", "--opt demo.top_k"] in rows(demo)
    assert ["seed", "7", "OPEN_LLM_SEED"] in rows(demo)
    assert len(rows(demo)) == 1 + len(MODEL_FIELDS)
    assert len(rows(server)) == 1 + len(FIELDS) - len(MODEL_FIELDS)


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_secrets_are_masked(file: str, form: list[str]) -> None:
    secrets = {"OPEN_LLM_HUB_TOKEN": "SECRET2", "OPEN_LLM_DOWNLOAD_HEADER": "Cookie: SECRET3"}
    done = config("show", file, *form, **secrets)
    assert done.exit_code == 0
    assert "SECRET" not in done.output
    assert done.stdout.count("********") == 5  # The key, and of each model the token and header.


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_queries_of_urls_are_not_shown(form: list[str]) -> None:
    adapter, model = ("https://host/x.gguf?token=SECRET",) * 2
    done = config("show", f"m={model}", "--lora", f"s={adapter}", *form)
    assert done.exit_code == 0
    assert "s=https://host/x.gguf?..." in done.stdout
    assert "SECRET" not in done.output


def test_check_tells_what_is_to_be_downloaded_without_secrets(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text("models: {m: 'https://host/x.gguf?token=SECRET'}")
    done = config("check", str(path))
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.endswith(
        "To be downloaded, or what goes with it: m=https://host/x.gguf?....\n"
    )


def test_show_as_json(file: str) -> None:
    found = json.loads(config("show", "coder", "--config", file, "--json").stdout)
    assert found["server"]["port"] == {"value": 81, "origin": "a.yaml, line 1: port"}
    assert list(found["models"]) == ["coder"]
    assert found["models"]["coder"]["model"] == "coder=demo"
    assert found["models"]["coder"]["settings"]["dtype"] == {"value": "auto", "origin": "default"}


def test_show_refuses_what_start_refuses() -> None:
    done = config("show", "dmeo", "--opt", "prot=1")
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: 2 settings are wrong:\n- ")


OUTSIDE = {
    "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://mirror:80/", "HF_TOKEN": "SECRET4",
}  # fmt: skip


def test_show_has_what_other_variables_give(tmp_path: Path) -> None:
    home = str(tmp_path / "x")
    found = json.loads(config("show", "--json", BENTOML_HOME=home, **OUTSIDE).stdout)
    settings = found["models"]["demo"]["settings"]
    assert found["server"]["models_dir"] == {"value": home, "origin": "BENTOML_HOME"}
    assert settings["offline"] == {"value": True, "origin": "HF_HUB_OFFLINE"}
    assert settings["hub_endpoint"] == {"value": "http://mirror:80", "origin": "HF_ENDPOINT"}
    assert settings["hub_token"] == {"value": "********", "origin": "HF_TOKEN"}


def test_our_own_come_before_other_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", "/nowhere")
    flags = ("--hub-endpoint", "http://own", "--hub-token", "x", "--offline")
    done = config("show", "--json", *flags, "--models-dir", str(tmp_path), **OUTSIDE)
    found = json.loads(done.stdout)
    settings = found["models"]["demo"]["settings"]
    assert found["server"]["models_dir"] == {"value": str(tmp_path), "origin": "--models-dir"}
    assert settings["hub_endpoint"] == {"value": "http://own", "origin": "--hub-endpoint"}
    for name in ("hub_token", "offline"):
        assert settings[name]["origin"] == "--" + name.replace("_", "-")


def test_without_any_variable_the_defaults_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BENTOML_HOME", *OUTSIDE, "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "SECRET5")
    found = json.loads(config("show", "--json").stdout)
    settings = found["models"]["demo"]["settings"]
    assert found["server"]["models_dir"]["value"] == str(Path.home() / "bentoml")
    assert settings["hub_endpoint"] == {"value": DEFAULT_ENDPOINT, "origin": "default"}
    assert settings["hub_token"] == {"value": "********", "origin": "saved by `hf auth login`"}
    assert settings["offline"] == {"value": False, "origin": "default"}


def test_a_wrong_variable_is_refused() -> None:
    done = config("show", HF_ENDPOINT="mirror")
    assert done.exit_code == 2
    assert "HF_ENDPOINT is wrong" in done.stderr


def test_show_takes_the_flags_of_start() -> None:
    done = config("show", "one=demo", "two=demo", "--top_k", "4", "--device", "one:cpu")
    assert done.exit_code == 0, done.stderr
    _, one, two = done.stdout.split("\n\n")
    assert ["top_k", "4", "--top-k"] in rows(one)
    assert ["device", "cpu", "--device"] in rows(one)
    assert ["device", "-", "default"] in rows(two)
    shown = {name for each in show.params for name in each.opts} - {"as_json", "--json"}
    assert shown == {name for each in start.params for name in each.opts}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("demo", "--model", "demo"), "are given twice, as 'demo' and --model 'demo'"),
        (("demo", "a.yaml"), "'a.yaml' is a configuration, which stands alone"),
        (("--port", "1", "--port", "1"), "--port is given twice; leave one out"),
        (("--top-k", "1", "--top_k", "2"), "--top-k is given twice; leave one out"),
        (("--embeddings", "--no-embeddings"), "--embeddings is given twice; leave one out"),
        (("--config", "a", "--config", "b"), "--config is given twice; leave one out"),
        (("--opt", "seed=1", "--opt", "seed=2"), "--opt seed is given twice; leave one out"),
        (("--opt", "demo.top-k=1", "--opt", "demo.top_k=2"), "--opt demo.top_k is given twice"),
        (
            ("--models-dir", "a", "--download-dir", "z"),
            "--download-dir and --models-dir set the same option; leave one out",
        ),
        (("--stop", "a", "--stop-sequence", "b"), "--stop-sequence and --stop set the same"),
        (("--stop", "a", "--opt", "stop=b"), "--opt stop and --stop set the same option"),
    ],
)
def test_what_is_given_twice_is_refused(arguments: tuple[str, ...], says: str) -> None:
    for command in (["config", "show"], ["start"]):
        done = CliRunner().invoke(main, [*command, *arguments])
        assert done.exit_code == 2
        assert says in done.stderr


def test_a_flag_of_several_may_be_repeated() -> None:
    done = config("show", "--json", "--stop", "a", "--stop", "b")
    settings = json.loads(done.stdout)["models"]["demo"]["settings"]
    assert settings["stop_sequence"] == {"value": ["a", "b"], "origin": "--stop"}


@pytest.mark.parametrize("command", ["check", "show"])
def test_what_needs_no_model_is_checked_without_it(command: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "models:\n"
        "  one: {model: org/large, backend: nonsense}\n"
        "  llama: {backend: ctranslate}\n"
        "  two: {model: org/large, backend: llama.cpp, dtype: half}\n"
        "  three: {model: org/large, backend: torch, dtype: half}\n"
    )
    done = config(command, str(path), BENTOML_HOME=str(tmp_path / "bentoml"))
    assert done.exit_code == 2
    heading, *told = done.stderr.splitlines()
    assert heading == "Error: 3 settings are wrong:"
    for line, says in zip(
        told,
        (
            "line 2: models.one.backend: There is no backend 'nonsense'; known are",
            "line 3: models.llama.backend: There is no backend 'ctranslate'; known are",
            "line 4: models.two.dtype: 'two' runs on llamacpp, which has no option 'dtype'",
        ),
        strict=True,
    ):
        assert says in line


def test_one_for_all_is_refused_if_neither_here_nor_to_come_an_engine_has_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("dtype: half\nmodels:\n  demo:\n  two: {model: org/large, backend: cpp}\n")
    done = config("check", str(path), BENTOML_HOME=str(tmp_path / "bentoml"))
    assert done.exit_code == 2
    assert "line 1: dtype: 'demo' runs on llamacpp, 'two' runs on llamacpp, which" in done.stderr


def test_show_refuses_what_the_engine_lacks() -> None:
    done = config("show", OPEN_LLM_DEMO_DTYPE="half")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "OPEN_LLM_DEMO_DTYPE: 'demo' runs on llamacpp, which has no option" in done.stderr


def test_check_finds_nothing(file: str) -> None:
    done = config("check", file, OPEN_LLM_PROT="1")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "would serve coder, demo." in done.stdout


def test_check_says_what_would_be_downloaded(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text("models: [org/never-downloaded]")
    done = config("check", str(path), BENTOML_HOME=str(tmp_path / "bentoml"))
    assert done.exit_code == 0
    assert "To be downloaded, or what goes with it: org/never-downloaded." in done.stdout


@pytest.mark.reliability("F-15")
def test_check_tells_all_mistakes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("port: x\nprot: 1\nseed: y\n")
    done = config("check", "a.yaml")
    assert (done.exit_code, done.stdout) == (2, "")
    assert [line.partition(" line ")[2][:2] for line in done.stderr.splitlines()[1:]] == [
        "1:", "2:", "3:",
    ]  # fmt: skip


@pytest.mark.reliability("F-15")
def test_check_looks_at_files_engines_and_certificates(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"GGUF")
    (tmp_path / "cert.pem").write_text("none")
    path = tmp_path / "a.yaml"
    path.write_text(
        f"ssl_certfile: {tmp_path}/cert.pem\nallowed_host: a/b\n"
        f"models:\n  one: {wrong}\n  two: {{model: demo, backend: torch}}\n"
    )
    done = config("check", str(path))
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 5
    for said in ("wrong.gguf", "holds no certificate", "allowed_host", "torch backend cannot load"):
        assert said in done.stderr


def test_check_without_a_file_reads_the_environment(file: str) -> None:
    assert config("check", OPEN_LLM_PORT="80", OPEN_LLM_CONFIGURATION=file).exit_code == 0
    done = config("check", OPEN_LLM_PROT="80", OPEN_LLM_CONFIGURATION=file)
    assert done.exit_code == 2
    assert "OPEN_LLM_PORT" in done.stderr


def is_valid(schema: Any, document: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(document))


@pytest.mark.parametrize(
    ("document", "valid"),
    [
        ({}, True),
        ({"port": 80, "stop_sequence": "a", "models": {"demo": None, "a": "demo"}}, True),
        ({"models": {"a": {"model": "demo", "top_k": 3, "stop_sequence": ["a", "b"]}}}, True),
        ({"models": ["demo"], "dtype": "auto", "device": "cpu", "top_k": None}, True),
        ({"models": ["demo"], "device": ["cpu"], "revision": None}, True),
        ({"models": {"demo": {"device": ["cpu"]}}}, False),
        ({"lora": {"sql": "org/sql", "": "org/law@v2"}}, True),
        ({"lora": {"sql": 5}}, False),
        ({"lora": {"sql": {"path": "./sql"}}}, False),
        ({"prot": 80}, False),
        ({"port": "x"}, False),
        ({"models": {"a": {"port": 80}}}, False),
        ({"models": 5}, False),
    ],
)
def test_the_schema_is_that_of_the_file(document: Any, valid: bool, tmp_path: Path) -> None:
    schema = json.loads(config("schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert is_valid(schema, document) is valid
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    assert (config("show", str(path)).exit_code == 0) is valid


def test_the_page_has_the_tables_of_the_command() -> None:
    tables = config("docs").stdout
    assert tables.strip() in PAGE
    for name in FIELDS:
        written = (each for other in (name, *other_names(name)) for each in flags(other))
        cell = ", ".join(f"`{each}`" for each in written)
        assert f"| `{name}` | {cell} | `{variable(name)}` |" in tables


def test_every_flag_of_the_tables_exists() -> None:
    told = set(re.findall(r"`(--[a-z0-9-]+)`", config("docs").stdout))
    known = {each for one in start.params for each in (*one.opts, *one.secondary_opts)}
    assert "--no-embeddings" in told
    assert told <= known


def test_a_switch_with_a_value_is_refused_with_both_flags() -> None:
    told = config("show", "--embeddings=false")
    assert told.exit_code == 2
    assert "does not take a value. Write --embeddings, or --no-embeddings." in told.stderr
    assert "Write" not in config("show", "--port").stderr


@pytest.mark.parametrize("value", ["false", "TRUE"])
def test_a_value_after_a_switch_is_no_model(value: str) -> None:
    told = config("show", "--embeddings", value)
    assert told.exit_code == 2
    assert "is no model; what is true or false is two flags without a value" in told.stderr
