"""LoRA adapters of a served model: models of their own to whoever asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

import openllm
from tests.e2e.server_process import ServerProcess, run, serving
from tests.hub_server import HubServer
from tests.lora import matrices, write_gguf
from tools.llama_gguf import LlamaShape

DEMO = LlamaShape.from_config_json(Path(openllm.__file__).parent / "demo/safetensors/config.json")
PROMPT = "Once upon a time"

pytestmark = pytest.mark.spec("S0-27")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: write_gguf(folder / f"{name}.gguf", matrices(DEMO.tensor_shapes(), seed))
        for seed, name in enumerate(("sql", "law"))
    }


@pytest.fixture(scope="module")
def server(files: dict[str, Path]) -> Iterator[ServerProcess]:
    flags = [part for name, path in files.items() for part in ("--lora", f"{name}={path}")]
    with serving("demo", *flags) as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        yield client


def test_adapters_are_listed_with_their_model(client: openai.OpenAI) -> None:
    found = {model.id: model.to_dict().get("parent") for model in client.models.list()}
    assert found == {"demo": None, "sql": "demo", "law": "demo"}
    assert client.models.retrieve("law").to_dict()["parent"] == "demo"


def test_a_request_names_an_adapter_as_its_model(
    server: ServerProcess, client: openai.OpenAI
) -> None:
    said = {}
    for name in ("demo", "sql", "law"):
        options = {"model": name, "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
        whole = client.completions.create(**options)
        assert whole.model == name
        said[name] = whole.choices[0].text
        stream = list(client.completions.create(**options, stream=True))
        assert {chunk.model for chunk in stream} == {name}
        assert "".join(chunk.choices[0].text for chunk in stream) == said[name]
        native = server.post("/complete", options)
        assert native.json()["choices"] == [said[name]]
        assert native.json()["configuration"]["model"] == name
        chat = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "Hi"}], max_tokens=4
        )
        assert chat.model == name
    assert len(set(said.values())) == 3


def test_what_an_adapter_cannot(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="embeddings are its model's; ask for 'demo'"):
        client.embeddings.create(model="sql", input="x")
    with pytest.raises(openai.NotFoundError, match="did you mean 'sql'"):
        client.completions.create(model="sqll", prompt=PROMPT)


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("demo={}", "two models or adapters are called 'demo'"),
        ("a=/nowhere", "--lora: lora 'a=/nowhere': /nowhere does not exist"),
    ],
)
def test_mistakes(files: dict[str, Path], flag: str, says: str) -> None:
    ended = run("start", "demo", "--port", "0", "--lora", flag.format(files["sql"]))
    assert ended.returncode != 0
    assert says in ended.stderr


def test_only_the_first_start_asks_for_an_adapter_of_the_hub(
    server: ServerProcess,
    files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = {"model": "sql", "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    expected = server.post("/complete", body).json()["choices"]
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with HubServer({"org/sql": {"sql.gguf": files["sql"].read_bytes()}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for _ in range(2):
            with serving("demo", "--lora", "sql=org/sql:sql.gguf") as other:
                assert other.post("/complete", body).json()["choices"] == expected
            asked, hub.requests = hub.requests, []
    assert asked == []


def test_an_engine_without_adapters(files: dict[str, Path], tmp_path: Path) -> None:
    script = tmp_path / "m.script.json"
    script.write_text("{}")
    ended = run("start", str(script), "--port", "0", "--lora", f"a={files['sql']}")
    assert ended.returncode != 0
    assert "has no option 'lora'" in ended.stderr
