"""What a model that is not here lacks is told before a byte of its weights is fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from openllm.bento import devices
from openllm.bento.ahead import check_ahead
from openllm.bento.checks import check
from openllm.cli import main
from openllm.errors import ConfigurationError, EngineNotInstalledError
from openllm.llm import choice
from openllm.models.store import stored
from tests.hub_server import HubServer, use_hub
from tests.unit.bento.starts import configured, refusal

DEMO = files("openllm").joinpath("demo")
GGUF = DEMO.joinpath("demo-q8_0.gguf").read_bytes()
FOLDER = {one.name: one.read_bytes() for one in DEMO.joinpath("safetensors").iterdir()}
WEIGHTS = (".gguf", ".safetensors")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    both = {**FOLDER, "both-Q4_0.gguf": GGUF, "both-Q8_0.gguf": GGUF + b"0"}
    repos = {"org/file": {"file.gguf": GGUF}, "org/folder": FOLDER, "org/both": both}
    with HubServer(repos) as server:
        use_hub(server.url, tmp_path, monkeypatch)
        yield server
        weights = [one for one in server.requests if str(one.path).endswith(WEIGHTS)]
        assert not weights or stored()


@pytest.fixture
def torch_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        if name == "torch":
            raise EngineNotInstalledError("run: pip install 'open-llm-server[torch]'")

    monkeypatch.setattr(choice, "check_installed", missing)
    monkeypatch.setattr(choice, "unfit", lambda _: "vLLM is not installed")


@pytest.mark.spec("S2-19")
def test_an_option_that_the_engine_lacks(hub: HubServer) -> None:
    told = refusal("org/file", dtype="half")
    assert told.startswith("--dtype: 'file' runs on llamacpp, which has no option 'dtype'")
    told = refusal("org/file", **{"file.gpu_memory_utilization": 0.5})
    assert told.startswith("--opt file.gpu_memory_utilization: 'file' runs on llamacpp")
    assert hub.body_bytes == 0


def test_a_gguf_file_is_known_by_its_name(hub: HubServer) -> None:
    for name in ("org/both:Q8_0", f"{hub.url}/some/where.gguf"):
        told = refusal(name, dtype="half")
        assert "runs on llamacpp, which has no option 'dtype'" in told
    assert hub.requests == []


def test_random_weights_need_no_listing_of_weights(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "check_installed", lambda _: None)
    told = refusal("org/folder", load_format="dummy", gpu_layers=3)
    assert told.startswith("--gpu-layers: 'folder' runs on torch")


def test_one_of_all_that_another_model_has_is_none(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "check_installed", lambda _: None)
    check_ahead(configured("org/file,org/folder", dtype="half"))
    told = refusal("org/file,org/folder", **{"file.dtype": "half"})
    assert told.startswith("--opt file.dtype: 'file' runs on llamacpp")


def test_all_mistakes_are_told_at_once(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_seen_by_llamacpp", list)
    options = {"dtype": "half", "two.enforce_eager": True, "two.device": "gpu:0"}
    told = refusal("org/file,two=org/file", **options)
    heading, *lines = told.splitlines()
    assert heading == "3 settings are wrong:"
    assert lines[0].startswith("- --opt two.device gpu:0 (cuda:0) is not on this machine")
    assert "--dtype: 'file' runs on llamacpp, 'two' runs on llamacpp, which have no" in lines[1]
    assert "--opt two.enforce_eager: 'two' runs on llamacpp" in lines[2]


@pytest.mark.usefixtures("torch_is_missing")
def test_an_engine_that_is_not_installed(hub: HubServer) -> None:
    assert refusal("org/folder") == "run: pip install 'open-llm-server[torch]'"
    told = refusal("org/both")
    assert told.startswith("run: pip install 'open-llm-server[torch]'; or take a GGUF file")
    assert told.endswith(": org/both:Q4_0")
    assert refusal("org/both", backend="torch") == "run: pip install 'open-llm-server[torch]'"
    assert hub.body_bytes <= 3 * len(FOLDER["config.json"])


def pull(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["pull", *arguments])


@pytest.mark.usefixtures("torch_is_missing")
def test_pull_needs_no_engine(hub: HubServer) -> None:
    done = pull("org/folder", "org/file")
    assert done.exit_code == 0, done.stderr
    tags = [tag.partition(":")[0] for tag in done.stdout.splitlines()]
    assert tags == ["pt-org--folder", "llamacpp-org--file"]
    warnings = [line for line in done.stderr.splitlines() if line.startswith("Warning: ")]
    assert warnings == [
        "Warning: 'folder' is downloaded and cannot be served here yet: run: pip install"
        " 'open-llm-server[torch]'"
    ]
    with pytest.raises(EngineNotInstalledError):
        check(configured("org/folder"))


def test_pull_for_an_engine_that_was_asked_for(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openllm.engines.find_spec", lambda _: None)
    done = pull("org/both", "--backend", "vllm")
    assert (done.exit_code, done.stdout.partition(":")[0]) == (0, "vllm-org--both"), done.stderr
    assert "pip install 'vllm'" in done.stderr
    assert "GGUF" not in done.stderr


def test_pull_refuses_what_no_engine_runs(hub: HubServer) -> None:
    config = json.loads(FOLDER["config.json"]) | {"architectures": ["BaichuanForCausalLM"]}
    hub.add_repo("org/old", {**FOLDER, "config.json": json.dumps(config).encode()})
    done = pull("org/old")
    assert (done.exit_code, done.stdout, stored()) == (2, "", ())
    assert "'old' cannot run" in done.stderr


@pytest.mark.spec("S0-36")
def test_a_card_that_is_not_here(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "check_installed", lambda _: None)
    monkeypatch.setattr(devices, "free_cards", lambda: ())
    monkeypatch.setattr(devices, "_seen_by_llamacpp", list)
    for models in ("org/file", "org/folder"):
        told = refusal(models, device="gpu:0")
        assert told.startswith("--device gpu:0 (cuda:0) is not on this machine, ")
    assert hub.body_bytes < len(GGUF)


@pytest.mark.spec("S0-36")
@pytest.mark.parametrize(
    ("model", "device", "says"),
    [
        ("demo", "gpu:2", "which sees"),
        ("folder", "cuda:2", "which has 2, counted from 0; give cpu"),
        ("folder", "mps", "--device mps is not on this machine, only Macs have it"),
    ],
)
def test_a_card_of_a_model_that_is_here(
    model: str, device: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "check_installed", lambda _: None)
    monkeypatch.setattr("openllm.bento.devices.sys.platform", "linux")
    monkeypatch.setattr(devices, "free_cards", lambda: (1, 1))
    monkeypatch.setattr(devices, "_seen_by_llamacpp", lambda: ["CUDA0", "CUDA1"])
    text = "demo" if model == "demo" else f"folder={DEMO / 'safetensors'}"
    with pytest.raises(ConfigurationError) as raised:
        check(configured(text, device=device))
    assert (
        says.replace("which sees", "sees the cards CUDA0, CUDA1, counted") in raised.value.message
    )
    assert check(configured(text, device="gpu:1")).missing == ()


def test_where_nothing_tells_the_engine_may_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "check_installed", lambda _: None)
    monkeypatch.setattr(devices, "free_cards", lambda: None)
    monkeypatch.setattr(devices, "_seen_by_llamacpp", lambda: None)
    folder = f"folder={DEMO / 'safetensors'}"
    assert check(configured(f"demo,{folder}", device="gpu:7")).missing == ()


def test_llama_cpp_is_asked_in_a_process_of_its_own() -> None:
    seen = devices._seen_by_llamacpp()
    assert seen is not None
    assert all(isinstance(name, str) for name in seen)
