"""What libraries raise, in words for people."""

from __future__ import annotations

import pydantic
import pytest

from openllm.engines.library_errors import LIMIT, of_text, told
from openllm.engines.vllm_errors import start_error
from openllm.errors import EngineStartError
from openllm.types import LocalModel

MODEL = LocalModel(name="m", path="/m", format="safetensors")
UNKNOWN = (
    "The checkpoint you are trying to load has model type `nosuch` but Transformers does not"
    " recognize this architecture. This could be because of an issue with the checkpoint.\n"
    "You can update Transformers with the command `pip install --upgrade transformers`."
)


class StrictDataclassClassValidationError(Exception):
    """As huggingface_hub raises it from the error of a check."""


def validator_error() -> Exception:
    try:
        try:
            raise ValueError("The hidden size (333) is not a multiple of 4.")
        except ValueError as error:
            text = "Class validation error for validator 'x':\n    ValueError: The hidden size"
            raise StrictDataclassClassValidationError(text) from error
    except StrictDataclassClassValidationError as error:
        return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (validator_error(), "The hidden size (333) is not a multiple of 4."),
        (ValueError("one of:\n(1) this,\n(2) that"), "one of: (1) this, (2) that"),
        (KeyError("w"), "KeyError: 'w'"),
        (RuntimeError(), "RuntimeError"),
        (ValueError(), "ValueError"),
    ],
)
def test_an_error_is_one_line_without_the_class_of_a_validator(error: Exception, says: str) -> None:
    assert told(error) == says


@pytest.mark.parametrize("text", ["a\n" * 5000, "a" * 10_000])
def test_a_text_is_one_line_of_bounded_length(text: str) -> None:
    for line in (told(ValueError(text)), of_text(text)):
        assert len(line) == LIMIT
        assert line.endswith("a...")
        assert "\n" not in line


def test_a_model_type_that_nobody_knows_is_told_with_a_way_out() -> None:
    for line in (told(ValueError(UNKNOWN)), of_text(f"ValueError: {UNKNOWN}")):
        assert line.startswith("transformers ")
        assert "does not know the model type 'nosuch'; install a newer one if it has that" in line
        assert "or a GGUF file" in line


class _Wrapped(pydantic.BaseModel):
    """As vLLM wraps what transformers raises."""

    model: str

    @pydantic.field_validator("model")
    @classmethod
    def _refuse(cls, text: str) -> str:
        raise ValueError(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (UNKNOWN, "does not know the model type 'nosuch'"),
        ("Not supported. Supported architectures: a, b, c", "Not supported."),
        ("bad\nvalue", "model bad value"),
    ],
)
def test_what_vllm_wraps_is_told_as_shortly(text: str, says: str) -> None:
    with pytest.raises(pydantic.ValidationError) as raised:
        _Wrapped(model=text)
    error = start_error(raised.value, None, MODEL, ())
    assert isinstance(error, EngineStartError)
    assert error.message.startswith("vLLM cannot load '/m': ")
    assert says in error.message
    assert not any(each in error.message for each in ("\n", "a, b, c", "ValidationError"))
    assert len(error.message) < LIMIT + 100


def test_a_long_reason_of_vllms_process_is_bounded() -> None:
    reason = f"ValueError: weights were not initialized: {list(range(1000))}"
    error = start_error(RuntimeError("died"), reason, MODEL, ())
    assert error.message.startswith("vLLM cannot load '/m': ValueError: weights were not")
    assert len(error.message) < LIMIT + 100
