"""What a name stands for, and which files on this machine are models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from openllm.errors import ConfigurationError, ModelFileError
from openllm.models.layouts import check_files
from openllm.models.locate import find_local
from openllm.models.ref import has_quantisation, parse_ref
from openllm.models.store import ModelRecord, StoredFile, add
from openllm.types import LocalModel
from tests.processes import processor_seconds
from tests.unit.models.gguf_bytes import build


def resolve(text: str) -> LocalModel:
    found = find_local(parse_ref(text))
    assert found is not None
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder and the home, with some model files."""
    for name in ("a.gguf", "Qwen1.5-0.5B-Chat.gguf", "bad name.gguf", "talk.script.json"):
        (tmp_path / name).write_bytes(b"{}" if name.endswith("json") else build().content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def refusal(text: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        resolve(text)
    assert "\n" not in raised.value.message
    return raised.value.message


def test_demo_is_the_file_in_the_package() -> None:
    model = resolve("demo")
    assert (model.name, model.format) == ("demo", "gguf")
    assert Path(model.path).parts[-3:] == ("openllm", "demo", "demo-q8_0.gguf")
    assert Path(model.path).is_absolute()


@pytest.mark.parametrize(
    "text", ["a.gguf", "./a.gguf", "~/a.gguf", "{folder}/a.gguf", "./x/../a.gguf"]
)
def test_path_of_a_gguf_file(folder: Path, text: str) -> None:
    (folder / "x").mkdir()
    model = resolve(text.format(folder=folder))
    assert model == LocalModel(name="a", path=str(folder / "a.gguf"), format="gguf")


def test_script_for_the_scripted_engine(folder: Path) -> None:
    path = str(folder / "talk.script.json")
    assert resolve("./talk.script.json") == LocalModel(name="talk", path=path, format="script")


@pytest.mark.spec("S2-07")
def test_name_is_the_last_part_of_the_path_without_its_ending(folder: Path) -> None:
    assert resolve(f"{folder}/Qwen1.5-0.5B-Chat.gguf").name == "Qwen1.5-0.5B-Chat"


@pytest.mark.parametrize("source", ["./a.gguf", "./talk.script.json", "demo"])
def test_name_can_be_chosen(folder: Path, source: str) -> None:
    model = resolve(f"my.model-2:b_c={source}")
    assert model.name == "my.model-2:b_c"
    assert model.path == resolve(source).path


def test_stem_that_is_no_name_asks_for_one(folder: Path) -> None:
    assert refusal("./bad name.gguf").endswith("write 'bad-name=./bad name.gguf'.")
    assert resolve("bad-name=./bad name.gguf").name == "bad-name"


def test_a_name_is_asked_for_only_where_there_is_a_model(folder: Path) -> None:
    assert refusal("org/na me").startswith("There is no file or folder org/na me;")
    assert refusal("./no thing.gguf").startswith("The model file ./no thing.gguf does not exist")


def test_equals_sign_in_a_path_is_part_of_the_path(folder: Path) -> None:
    (folder / "a=b.gguf").write_bytes(b"")
    assert "'a=b' cannot be the name of a model" in refusal("./a=b.gguf")
    assert resolve("c=./a=b.gguf").path == str(folder / "a=b.gguf")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dmeo", "Unknown model 'dmeo'. Did you mean 'demo'? Known models: demo, "),
        ("DEMO", "Did you mean 'demo'?"),
        ("lama", "Did you mean 'llama'?"),
        ("flan_t4", "Did you mean 'flan-t5'?"),
        ("qwen3:0.6", "Did you mean 'qwen3:0.6b'? There are: qwen3:0.6b, "),
        ("zzz", "Unknown model 'zzz'. Known models: demo, "),
        ("./missing.gguf", "The model file ./missing.gguf does not exist"),
        ("~/missing.gguf", "The model file ~/missing.gguf does not exist"),
        ("./model.bin", "There is no file or folder ./model.bin; the name of a model file ends"),
        ("a/b/c", "There is no file or folder a/b/c; the name of a model file ends with .gguf or"),
        ("", "A model name is empty"),
        ("   ", "A model name is empty"),
        ("x=", "'x=' has nothing after '='"),
        ("=demo", "'' cannot be the name of a model"),
    ],
)
def test_unknown_models_are_named_with_what_to_do(folder: Path, text: str, said: str) -> None:
    assert said in refusal(text)


@pytest.mark.parametrize("text", ["notes.txt", "./notes.txt", "{folder}/notes.txt", "x=notes.txt"])
def test_file_that_is_no_model_is_called_so(folder: Path, text: str) -> None:
    (folder / "notes.txt").write_text("hello")
    message = refusal(text.format(folder=folder))
    assert message.startswith("The file ")
    assert "notes.txt is not a GGUF file or a script: its name does not end with .gguf" in message
    assert "Unknown model" not in message


@pytest.mark.parametrize("text", ["empty", "./empty", "empty/", "x=./empty", "./empty.gguf"])
def test_folder_without_a_model_is_called_so(folder: Path, text: str) -> None:
    (folder / text.removeprefix("x=")).mkdir()
    assert f"The folder {text.removeprefix('x=')} is not a model" in refusal(text)
    assert "give the path of a .gguf file" in refusal(text)


def test_folder_names_a_model_in_it(folder: Path) -> None:
    assert refusal(".").endswith("for the model in it give ./Qwen1.5-0.5B-Chat.gguf.")
    assert refusal(str(folder)).endswith(f"give {folder}/Qwen1.5-0.5B-Chat.gguf.")


def test_a_folder_with_a_config_is_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "tiny").mkdir()
    assert "tiny is not a model: it does not hold config.json" in refusal("tiny")
    (folder / "tiny" / "config.json").write_text("{}")
    path = str(folder / "tiny")
    for text in ("tiny", "./tiny", "tiny/", path):
        assert resolve(text) == LocalModel(name="tiny", path=path, format="safetensors")
    assert resolve("n=./tiny").name == "n"
    with pytest.raises(ModelFileError, match=r"config\.json"):
        check_files(resolve("tiny"))
    monkeypatch.chdir(path)
    assert resolve(".").name == "tiny"


def test_known_name_wins_over_a_folder(folder: Path) -> None:
    (folder / "demo").mkdir()
    assert resolve("demo").format == "gguf"
    assert "The folder ./demo is not a model" in refusal("./demo")


def test_hub_id_that_is_a_folder_is_the_folder(folder: Path) -> None:
    (folder / "Qwen").mkdir()
    (folder / "Qwen" / "Qwen3-4B").mkdir()
    assert "The folder Qwen/Qwen3-4B is not a model" in refusal("Qwen/Qwen3-4B")


def test_pipe_is_refused_without_being_opened(folder: Path) -> None:
    os.mkfifo(folder / "pipe.gguf")
    assert "The model file ./pipe.gguf is no regular file" in refusal("./pipe.gguf")


def test_refusal_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom openllm.models.ref import parse_ref\n"
        "from openllm.models.locate import find_local\n"
        "try: find_local(parse_ref('dmeo'))\nexcept ValueError: print(*sys.modules)"
    )
    started = processor_seconds()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert processor_seconds() - started < 1.0
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "msgspec" in loaded
    assert not loaded & {"bentoml", "xllamacpp", "pydantic", "starlette", "jinja2", "numpy"}


def test_right_files_pass_the_check(folder: Path) -> None:
    check_files(resolve("./a.gguf"))
    check_files(resolve("./talk.script.json"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.gguf", b"<html>", "a.gguf is not a GGUF file: it begins with b'<htm'"),
        ("a.gguf", bytes(build().content[:-1]), "a.gguf is truncated: needs"),
        ("talk.script.json", b"{", "talk.script.json is not JSON"),
        ("talk.script.json", b"", "talk.script.json is not JSON"),
        ("talk.script.json", b'"\xff"', "talk.script.json is not JSON"),
        ("talk.script.json", b"[" * 100_000, "talk.script.json is not JSON"),
    ],
)
def test_broken_files_are_named(folder: Path, name: str, content: bytes, said: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ModelFileError) as raised:
        check_files(resolve(f"./{name}"))
    assert raised.value.message.startswith(said)


def test_missing_script_is_named(folder: Path) -> None:
    model = LocalModel(name="x", path=str(folder / "x.script.json"), format="script")
    with pytest.raises(ModelFileError, match="cannot be read: No such file"):
        check_files(model)


@pytest.mark.parametrize(
    ("file", "quantisation", "has"),
    [
        ("qwen3-0.6b-Q8_0.gguf", "Q8_0", True),
        ("dir/model.q4_k_m.gguf", "Q4_K_M", True),
        ("m_Q4_K_M-00001-of-00002.gguf", "Q4_K_M", True),
        ("m-Q4_K_M.gguf", "Q4_K", False),
        ("m-IQ4_0.gguf", "Q4_0", False),
        ("m.gguf", "Q4_0", False),
    ],
)
def test_a_quantisation_is_a_word_of_the_files_name(
    file: str, quantisation: str, has: bool
) -> None:
    assert has_quantisation(file, quantisation) is has


def test_a_stored_quantisation_is_found_without_the_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(folder / "store"))
    (folder / "m").mkdir()
    (folder / "m" / "m-Q4_K_M.gguf").write_bytes(build().content)
    assert find_local(parse_ref("org/m:Q4_K_M")) is None
    record = ModelRecord(
        format="gguf",
        source="org/m",
        revision="a" * 40,
        file="m-Q4_K_M.gguf",
        refs=("main",),
        files=(StoredFile("m-Q4_K_M.gguf", len(build().content)),),
    )
    add(folder / "m", record, name="llamacpp-org--m--m-q4_k_m", version="a" * 40)
    for text in (
        "org/m:Q4_K_M",
        "Org/M@main:q4_k_m",
        "org/m:m-Q4_K_M.gguf",
        f"org/m@{'a' * 40}:Q4_K_M",
    ):
        found = find_local(parse_ref(text))
        assert found is not None, text
        assert found.revision == "a" * 40
        assert found.path.endswith("/m-Q4_K_M.gguf")
    for text in ("org/m", "org/m:Q8_0", "org/m@v2:Q4_K_M", "org/n:Q4_K_M"):
        assert find_local(parse_ref(text)) is None
