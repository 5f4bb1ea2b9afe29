"""`openllm fit`: a row for each engine, before any download, and a status for each verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from openllm import machine
from openllm.bento import devices
from openllm.cli import main
from tests.hub_server import HubServer
from tests.unit.model_folders import make_folder, safetensors
from tests.unit.models.gguf_bytes import UINT32, build, right_metadata

GIB = 1 << 30
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "max_position_embeddings": 8192,
    "torch_dtype": "float32",
}


@pytest.fixture(autouse=True)
def four_gib_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: 4 * GIB)
    monkeypatch.setattr(machine, "free_cards", lambda: ())
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "store"))


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "tiny").mkdir()
    return make_folder(tmp_path / "tiny", LLAMA)


def gguf(path: Path, **changes: int) -> str:
    entries = {f"llama.{key}": (UINT32, value) for key, value in changes.items()}
    path.write_bytes(build(right_metadata() | entries).content)
    return str(path)


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["fit", *arguments])


def rows(*arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the exit status, and the rows by engine."""
    done = ask(*arguments, "--json")
    return done.exit_code, {row["engine"]: row for row in json.loads(done.stdout)["engines"]}


def test_each_engine_that_could_run_the_model_has_a_row(folder: str) -> None:
    status, found = rows(folder)
    assert (status, set(found)) == (0, {"vllm", "torch"})
    torch = found["torch"]
    assert torch["need"] == torch["weights"] + torch["kv_cache"] + torch["overhead"]
    assert torch["free"] == 4 * GIB
    assert torch["kv_cache"] == 2 * 8192 * 32 * 8 * 128 * 2 * 4
    assert not torch["fits_whole_context"]
    assert 512 < torch["largest_context"] < 8192


def test_the_table_says_the_same(folder: str) -> None:
    done = ask(folder, "--backend", "torch")
    assert done.exit_code == 0
    head, row = (line.split() for line in done.stdout.splitlines()[1:3])
    assert head[:7] == ["ENGINE", "WEIGHTS", "KV", "OVERHEAD", "NEED", "FREE", "FITS"]
    assert row[0] == "torch"
    assert "with less context" in done.stdout
    assert "torch: 1 x 8192 tokens" in done.stdout


@pytest.mark.parametrize("spelling", ["--context-length", "--context_length", "--max-model-len"])
def test_a_context_that_was_asked_for_must_fit(folder: str, spelling: str) -> None:
    longest = rows(folder)[1]["torch"]["largest_context"]
    asked = (folder, "--backend", "torch", spelling)
    assert ask(*asked, str(longest)).exit_code == 0
    assert ask(*asked, str(longest + 1)).exit_code == 1


def test_dtype_and_concurrency_change_the_sums(folder: str) -> None:
    _, before = rows(folder, "--context-length", "100")
    _, after = rows(
        folder, "--context-length", "100", "--dtype", "bfloat16", "--max-concurrency", "3"
    )
    torch = after["torch"]
    assert torch["weights"] * 2 == before["torch"]["weights"]
    assert torch["kv_cache"] * 2 == before["torch"]["kv_cache"] * 3
    assert torch["max_concurrency"] == 3


def test_a_gguf_file_has_one_row_and_its_slots(tmp_path: Path) -> None:
    status, found = rows(gguf(tmp_path / "m.gguf"))
    assert (status, set(found)) == (0, {"llamacpp"})
    assert (found["llamacpp"]["max_concurrency"], found["llamacpp"]["context_length"]) == (8, 512)
    assert found["llamacpp"]["install"] == ""


def test_a_folder_without_a_tokenizer_is_told(folder: str) -> None:
    done = ask(folder)
    assert done.exit_code == 0
    assert f"start refuses it: {folder}/tokenizer.json does not exist, nor " in done.stdout
    Path(folder, "tokenizer.json").write_text("{}")
    assert "tokenizer" not in ask(folder).stdout


def test_what_start_chooses_itself_is_told(tmp_path: Path) -> None:
    path = gguf(tmp_path / "m.gguf", context_length=10**9)
    (found,) = rows(path)[1].values()
    assert 0 < found["chosen_context"] < found["largest_context"] < 10**9
    done = ask(path)
    assert (
        f"llamacpp: start chooses about {found['chosen_context']} tokens itself, which leaves"
        f" memory to others; --context-length gives up to {found['largest_context']}\n"
    ) in done.stdout
    asked = ask(path, "--context-length", str(found["largest_context"]))
    assert (asked.exit_code, "start chooses" in asked.stdout) == (0, False)


def test_what_does_not_fit_has_status_1_and_says_that_it_would_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = gguf(tmp_path / "m.gguf")
    with open(path, "r+b") as file:
        file.truncate(6 * GIB)
    done = ask(path)
    assert done.exit_code == 1
    assert "llamacpp: it would start, and read weights from the disk again and again" in done.stdout


def test_a_card_is_where_torch_and_vllm_compute(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (machine, devices):
        monkeypatch.setattr(module, "free_cards", lambda: (3 * GIB, 8 * GIB))
    _, found = rows(folder)
    assert (found["torch"]["place"], found["torch"]["free"]) == ("gpu", 11 * GIB)
    assert (found["vllm"]["place"], found["vllm"]["free"]) == ("gpu", 3 * GIB)
    _, found = rows(folder, "--device", "gpu:1")
    assert {row["free"] for row in found.values()} == {8 * GIB}
    done = ask(folder, "--device", "gpu:2")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--device gpu:2 (cuda:2) is not on this machine, which has 2, counted" in done.stderr
    _, found = rows(folder, "--backend", "torch", "--device", "cpu")
    assert (found["torch"]["place"], found["torch"]["free"]) == ("cpu", 4 * GIB)


def test_a_card_of_which_nothing_is_known_has_no_row(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "free_cards", lambda: None)
    done = ask(folder)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "nothing tells what is free on the cards of this machine" in done.stderr
    _, found = rows(folder, "--backend", "torch", "--device", "cpu")
    assert found["torch"]["free"] == 4 * GIB


def test_a_model_on_the_hub_is_judged_before_it_is_downloaded(
    hub: HubServer, tmp_path: Path
) -> None:
    weights = safetensors({"a": ("F32", (1 << 20,))})
    hub.add_repo(
        "org/tiny", {"config.json": json.dumps(LLAMA).encode(), "model.safetensors": weights}
    )
    status, found = rows("org/tiny", "--hub-endpoint", hub.url, "--backend", "torch")
    assert (status, found["torch"]["weights"]) == (0, 4 << 20)
    assert hub.body_bytes < 1 << 18
    assert not (tmp_path / "store").exists()


def test_a_file_behind_a_url_is_judged_before_it_is_downloaded(hub: HubServer) -> None:
    content = bytes(build(tensors=(("t", (1 << 20,), 0, 0),), data_size=4 << 20).content)
    url = hub.add_file("models/m.gguf", content)
    status, found = rows(url)
    assert (status, found["llamacpp"]["weights"]) == (0, len(content))
    assert hub.body_bytes <= 1 << 20


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nope",), "Unknown model 'nope'"),
        (("./none.gguf",), "none.gguf"),
        (("demo", "--context-length", "0"), "--context-length"),
        (("demo", "--dtype", "int3"), "--dtype"),
        (("demo", "--backend", "abacus"), "--backend: There is no backend 'abacus'"),
        (("demo", "--backend", "vllm"), "cannot load"),
        (("demo,x=demo",), "are 2 models; give one"),
        (("org/name", "--offline"), "must not be used"),
    ],
)
def test_wrong_input_has_status_2(arguments: tuple[str, ...], says: str) -> None:
    done = ask(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--device", "gpu:0"], "Error: --device gpu:0 (cuda:0) is not on this machine, where"),
        (["--dtype", "half"], "Error: --dtype: 'demo' runs on llamacpp, which has no option"),
    ],
)
def test_what_start_refuses_is_refused(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_seen_by_llamacpp", list)
    done = ask("demo", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(says)


def test_what_one_engine_refuses_another_may_run(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "free_cards", lambda: ())
    monkeypatch.setenv("OPEN_LLM_GPU_MEMORY_UTILIZATION", "0.5")
    status, found = rows(folder)
    assert (status, set(found)) == (0, {"vllm"})
    assert "'tiny' runs on torch, which has no option" in ask(folder).stdout
    done = ask(folder, "--device", "gpu")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--device gpu (cuda) is not on this machine" in done.stderr


def test_a_context_that_start_would_not_take_is_told(folder: str) -> None:
    done = ask("demo", "--context-length", "100000")
    told = (
        "context_length 100000 is more than the 1024 that the model was made for; start uses 1024"
    )
    assert (done.exit_code, f"llamacpp: {told}" in done.stdout.splitlines()) == (0, True)
    report = json.loads(ask("demo", "--context-length", "100000", "--json").stdout)
    assert report["warnings"] == [f"llamacpp: {told}"]
    _, found = rows(folder, "--context-length", "8193")
    assert {name: row["context_length"] for name, row in found.items()} == {
        "vllm": 8192,
        "torch": 8193,
    }


def test_an_architecture_of_which_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weird").mkdir()
    weird = make_folder(tmp_path / "weird", {**LLAMA, "architectures": ["WeirdForCausalLM"]})
    assert "torch: nothing is known here of WeirdForCausalLM; start says" in ask(weird).stdout
    monkeypatch.setattr("openllm.engines.missing_modules", lambda _: ())
    monkeypatch.setattr("openllm.engines.vllm_presence.unfit", lambda name: f"vLLM has no {name}")
    status, found = rows(weird)
    assert (status, set(found)) == (0, {"torch"})
    assert "vLLM has no WeirdForCausalLM" in ask(weird).stdout.splitlines()


def test_a_script_has_no_needs(tmp_path: Path) -> None:
    path = tmp_path / "talk.script.json"
    path.write_text("{}")
    done = ask(str(path))
    assert done.exit_code == 2
    assert "format script" in done.stderr
