"""Our options in vLLM's terms, and the arguments that are handed through."""

from __future__ import annotations

import pytest

from openllm.config.model import LoadOptions
from openllm.engines.vllm_arguments import engine_arguments, handed_through
from openllm.errors import ConfigurationError
from openllm.types import LocalModel

MODEL = LocalModel(name="m", path="/models/m", format="safetensors")
KNOWN = ("model", "max_num_seqs", "max_model_len", "enable_lora", "quantization", "seed", "dtype")


def arguments(**options: object) -> dict[str, object]:
    return engine_arguments(MODEL, LoadOptions.model_validate(options), KNOWN)


def test_options_become_arguments() -> None:
    given = arguments(context_length=512, max_concurrency=4, dtype="bfloat16", enforce_eager=True)
    assert given["model"] == "/models/m"
    assert given["max_model_len"] == 512
    assert given["max_num_seqs"] == 4
    assert given["dtype"] == "bfloat16"
    assert given["enforce_eager"] is True
    assert "max_num_batched_tokens" not in given


def test_what_is_not_asked_for_is_left_to_vllm() -> None:
    given = arguments()
    assert "max_model_len" not in given
    assert given["max_num_seqs"] == 256
    assert given["trust_remote_code"] is False


def test_weights_are_never_pickles() -> None:
    assert arguments()["load_format"] == "safetensors"


def test_a_chunk_of_prompt_leaves_room_for_the_running_sequences() -> None:
    assert arguments(prefill_chunk=256, max_concurrency=8)["max_num_batched_tokens"] == 264


def test_an_argument_handed_through_wins() -> None:
    given = arguments(max_concurrency=4, engine_arg=("max_num_seqs=64", "enable-lora=true"))
    assert given["max_num_seqs"] == 64
    assert given["enable_lora"] is True


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("seed=3", 3),
        ("seed = 3", 3),
        ("--seed=3", 3),
        ("enable_lora=True", True),
        ("enable_lora=FALSE", False),
        ("quantization=None", None),
        ("quantization=null", None),
        ("quantization=awq", "awq"),
        ("quantization=a=b", "a=b"),
        ("quantization=", ""),
        ('quantization="awq"', "awq"),
        ('quantization={"bits": 4}', {"bits": 4}),
    ],
)
def test_values_are_json_or_text(text: str, value: object) -> None:
    (found,) = handed_through([text], KNOWN).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_num_seq=3", "did you mean max_num_seqs"),
        ("zzz=3", "vllm serve --help=all"),
        ("seed", "must be NAME=VALUE"),
        ("=3", "must be NAME=VALUE"),
        ("model=other", "cannot be set"),
    ],
)
def test_what_vllm_does_not_have_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        handed_through([text], KNOWN)
    assert caught.value.param == "engine_arg"


def test_an_argument_may_be_handed_through_once() -> None:
    with pytest.raises(ConfigurationError, match="engine_arg max_num_seqs is given twice"):
        handed_through(["max_num_seqs=3", "--max-num-seqs=4"], KNOWN)
