"""Where the torch engine puts a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import openllm
from openllm.config.model import LoadOptions
from openllm.engines import torch_load
from openllm.errors import ConfigurationError, OutOfMemoryError
from openllm.types import LocalModel
from tests.e2e.server_process import serving

FOLDER = Path(openllm.__file__).parent / "demo" / "safetensors"


@pytest.mark.spec("S0-36")
def test_on_the_processor() -> None:
    with openllm.LLM(FOLDER, backend="torch", device="cpu", threads=1) as llm:
        assert {each.device for each in llm.model.parameters()} == {torch.device("cpu")}


@pytest.mark.spec("S0-36")
@pytest.mark.parametrize("device", ["gpu:99", "cuda:99"])
def test_a_card_that_is_not_here_is_refused(device: str) -> None:
    llm = openllm.LLM(FOLDER, backend="torch", device=device)
    with pytest.raises(ConfigurationError, match=r"device gpu:99 \(cuda:99\) is not on") as raised:
        _ = llm.model
    assert raised.value.param == "device"


@pytest.mark.spec("S0-36")
@pytest.mark.parametrize("flags", [("a:cpu,b:cpu",), ("a:cpu", "b:cpu")])
def test_engines_side_by_side_are_placed_alike(flags: tuple[str, ...]) -> None:
    """`a` runs on llama.cpp and `b` on torch; an option of torch for all reaches it alone."""
    placed = [part for flag in flags for part in ("--device", flag)]
    options = ("--opt", "b.backend=torch", "--dtype", "float", "--threads", "1")
    with serving(f"a=demo,b={FOLDER}", *placed, *options) as server:
        assert server.ready["models"] == ["a", "b"]
        for name in ("a", "b"):
            asked = {"model": name, "prompt": "Once upon", "max_tokens": 4, "temperature": 0}
            assert server.post("/v1/completions", asked).status_code == 200


class Asked(BaseException):
    """Carries where transformers was told to put the weights."""


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Free bytes of the cards of this machine, which has none yet."""
    free: list[int] = []

    def room(device: torch.device | int) -> tuple[int, int]:
        number = device if isinstance(device, int) else device.index or 0
        return free[number], 1 << 40

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(torch.cuda, "mem_get_info", room)
    monkeypatch.setattr(torch_load, "_model_class", lambda config: Recorder)
    return free


class Recorder:
    """In the place of a model's class."""

    @staticmethod
    def from_pretrained(path: str, **options: object) -> None:
        raise Asked(options["device_map"], options.get("max_memory"))

    from_config = from_pretrained


def placed(device: str | None) -> tuple[object, ...]:
    """Return the map and the room that the weights are given."""
    local = LocalModel(name="m", path=str(FOLDER), format="safetensors")
    options = LoadOptions(backend="torch", device=device, dtype="float32")
    with pytest.raises(Asked) as raised:
        torch_load.load_model(local, options)
    return raised.value.args


def weights() -> int:
    """Return the bytes of the weights as float32, which are stored in half of that."""
    return 2 * sum(file.stat().st_size for file in FOLDER.glob("*.safetensors"))


@pytest.mark.spec("S2-36")
@pytest.mark.parametrize("device", [None, "gpu"])
def test_what_is_too_large_for_one_card_is_spread_over_all(
    cards: list[int], device: str | None
) -> None:
    cards += [weights(), weights() * 10 // 9]
    assert placed(device) == ("auto", {0: int(0.8 * cards[0]), 1: int(0.8 * cards[1])})
    cards[1] = cards[0] = 9 * weights()
    assert placed(device)[0] == {"": "cuda" if device else "cuda:0"}


def test_cards_that_are_too_small_together_are_told(cards: list[int]) -> None:
    """Of each card some is left free for the cache, so the weights would go to the disk."""
    cards += [weights() * 6 // 10] * 2
    with pytest.raises(OutOfMemoryError, match="are free on 2 cards; use a smaller model"):
        placed(None)


def test_a_card_that_was_named_has_the_model_alone(cards: list[int]) -> None:
    cards += [100 * weights(), weights() * 11 // 10]
    assert placed("gpu:1") == ({"": "cuda:1"}, None)
    cards[1] = weights() // 2
    local = LocalModel(name="m", path=str(FOLDER), format="safetensors")
    with pytest.raises(OutOfMemoryError, match="are free on cuda:1; use a smaller model"):
        torch_load.load_model(local, LoadOptions(device="gpu:1", dtype="float32"))
