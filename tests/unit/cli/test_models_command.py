"""`openllm models`: document S4's JSON, a table on a terminal, and what lies in the store."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from openllm.cli import models as command
from openllm.models.families import families
from openllm.models.locate import expand
from openllm.models.ref import parse_ref
from openllm.models.registry import Registry
from openllm.models.store import ModelRecord, StoredFile, add
from tests.unit.models.gguf_bytes import build

COMMIT = "9ab9e76e2b09f9f29ea2d56aa5bd139e4445c59e"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    return tmp_path


def listed(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(command.models, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def store(
    folder: Path, name: str, source: str, file: str, content: bytes, of_several: bool = False
) -> None:
    staged = folder / name
    staged.mkdir()
    (staged / file).write_bytes(content)
    (staged / "model.safetensors").write_bytes(b"x")
    form: Any = "gguf" if file.endswith(".gguf") else "safetensors"
    record = ModelRecord(
        format=form,
        source=source,
        revision=COMMIT,
        file=file if of_several else "",
        files=tuple(StoredFile(each.name, each.stat().st_size) for each in staged.iterdir()),
    )
    add(staged, record, name=name, version=COMMIT)


@pytest.mark.spec("S4-22")
def test_json_has_the_documents_fields_for_every_family() -> None:
    found = listed()
    for family in families():
        row = found[family.name]
        assert set(row) == {
            "architecture",
            "example_id",
            "supported_backends",
            "installation",
            "items",
        }
        assert row["items"] == []
    assert found["baichuan"]["example_id"] == "baichuan-inc/baichuan2-7b-chat"
    assert found["demo"]["supported_backends"] == ["llamacpp"]
    assert "/" not in found["demo"]["example_id"]


@pytest.mark.spec("S4-26")
def test_items_are_the_tags_in_the_store(home: Path) -> None:
    config = b'{"architectures": ["MistralForCausalLM"]}'
    name = "vllm-mistralai--mistral-7b-instruct-v0.1"
    store(home, name, "mistralai/Mistral-7B-Instruct-v0.1", "config.json", config)
    store(
        home,
        "pt-someone--gemma",
        "someone/gemma",
        "config.json",
        b'{"architectures": ["Gemma3ForCausalLM"]}',
    )
    store(
        home, "pt-stabilityai--alpha", "stabilityai/stablelm-tuned-alpha-3b", "config.json", b"{}"
    )
    header = bytes(build({"general.architecture": (8, "qwen3moe")}).content)
    store(home, "llamacpp-someone--moe", "someone/moe", "x.gguf", header)
    store(home, "llamacpp-bad", "someone/bad", "x.gguf", b"GGUF")
    found = listed()
    assert found["mistral"]["items"] == [f"{name}:{COMMIT}"]
    assert found["gemma3"]["items"] == [f"pt-someone--gemma:{COMMIT}"]
    assert found["stablelm"]["items"] == [f"pt-stabilityai--alpha:{COMMIT}"]
    assert found["qwen3_moe"]["items"] == [f"llamacpp-someone--moe:{COMMIT}"]
    assert sum(len(row["items"]) for row in found.values()) == 4


def test_a_registered_model_has_the_engine_of_what_it_stands_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Registry()
    registry.add_model("talk", "./talk.script.json", defaults={"backend": "scripted"})
    registry.add_model("chain", "talk", defaults={"temperature": 0.5})
    registry.add_model("link", "chain")
    registry.add_model("seven", "opt:125m")
    registry.add_model("quick", "org/house:Q4_K_M")
    registry.add_model("web", "https://host/m.gguf?key=1")
    registry.add_model("same", "quick")
    registry.add_model("any", "org/house")
    registry.add_model("itself", "itself")
    registry.add_model("future", "org/house", defaults={"backend": "vllm"})
    monkeypatch.setattr(command, "REGISTRY", registry)
    found = {name: listed(name)[name] for name in registry}
    opt = next(family for family in families() if family.name == "opt")
    assert {name: row["supported_backends"] for name, row in found.items()} == {
        "talk": ["scripted"], "chain": ["scripted"], "link": ["scripted"],
        "seven": list(opt.backends), "quick": ["llamacpp"], "web": ["llamacpp"],
        "same": ["llamacpp"], "any": [], "itself": [], "future": ["vllm"],
    }  # fmt: skip
    assert found["seven"]["installation"] == opt.installation
    assert found["chain"]["installation"] == "pip install open-llm-server"
    assert found["future"]["installation"] == "pip install vllm"
    assert found["web"]["example_id"] == "https://host/m.gguf?..."


def test_items_of_a_registered_model_are_in_the_store_too(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry()
    registry.add_model("house", "org/house:Q4_K_M")
    registry.add_model("beside", "org/house:Q8_0")
    registry.add_model("later", "nobody-knows-this")
    registry.add_model("sevenb", "opt:125m")
    monkeypatch.setattr(command, "REGISTRY", registry)
    content = bytes(build({"general.architecture": (8, "llama")}).content)
    store(home, "llamacpp-org--house", "org/house", "house-Q4_K_M.gguf", content, True)
    opt = parse_ref("opt:125m")
    store(home, "pt-facebook--opt", expand(opt).repo, "config.json", b"{}")
    found = {name: listed(name)[name]["items"] for name in registry}
    assert found == {
        "house": [f"llamacpp-org--house:{COMMIT}"],
        "beside": [],
        "later": [],
        "sevenb": [f"pt-facebook--opt:{COMMIT}"],
    }


@pytest.mark.parametrize("arguments", [("flan-t5",), ("--family", "flan_t5"), ("T5", "--json")])
def test_one_family(arguments: tuple[str, ...]) -> None:
    assert list(listed(*arguments)) == ["flan_t5"]
    assert list(listed("demo")) == ["demo"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("lama",), "no such family 'lama'; did you mean 'llama'?"),
        (("zzzz",), "there are: demo, baichuan, chatglm"),
        (("llama", "--family", "opt"), "are two families"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(command.models, arguments)
    assert result.exit_code == 2
    assert said in result.output


def test_a_terminal_gets_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.sys, "stdout", _Terminal(sys.stdout))  # type: ignore[attr-defined]
    monkeypatch.setenv("COLUMNS", "100")
    runner = CliRunner()
    lines = _printed(runner, monkeypatch).splitlines()
    assert lines[0].split() == ["NAME", "BACKENDS", "STORED", "SIZES"]
    assert any(line.startswith("flan-t5 ") and "small base large" in line for line in lines)
    assert max(map(len, lines)) <= 100
    details = _printed(runner, monkeypatch, "dolly")
    assert "dolly-v2:12b  databricks/dolly-v2-12b" in details
    assert "architecture:       GPTNeoXForCausalLM" in details


class _Terminal:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        return True


def _printed(runner: CliRunner, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    lines: list[str] = []
    monkeypatch.setattr(command.click, "echo", lambda text: lines.append(text))  # type: ignore[attr-defined]
    command.models.main(list(arguments), standalone_mode=False)
    return "\n".join(lines)


def test_it_loads_nothing_heavy(home: Path) -> None:
    config = b'{"architectures": ["OPTForCausalLM"]}'
    for number in range(20):
        name = f"pt-someone--{number}"
        store(home, name, f"someone/{number}", "config.json", config)
    code = (
        "import sys\n"
        "from openllm.cli import main\n"
        "try: main(['models'], prog_name='openllm')\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    modules = {name.partition(".")[0] for name in done.stderr.split()}
    assert "msgspec" in modules
    assert not modules & {
        "bentoml",
        "torch",
        "transformers",
        "vllm",
        "huggingface_hub",
        "xllamacpp",
    }
