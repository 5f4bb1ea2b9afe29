"""Options that an engine does not have, of one model and of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import openllm
from openllm.bento.checks import check, fetch
from openllm.bento.options import read_configuration
from openllm.config.effective import Configuration
from openllm.errors import ConfigurationError

DEMO = Path(openllm.__file__).parent / "demo"
OPTIONS: dict[str, Any] = {
    "dtype": "half", "kv_cache_tokens": 9, "prefill_chunk": 9, "gpu_memory_utilization": 0.5,
    "enforce_eager": True, "trust_remote_code": True, "engine_arg": ("a=b",),
}  # fmt: skip


def configured(
    models: str = "demo", environ: dict[str, str] | None = None, **options: Any
) -> Configuration:
    return read_configuration(models, options, environ or {})


def refusal(*models: str, **options: Any) -> str:
    with pytest.raises(ConfigurationError) as raised:
        check(configured(*models, **options))
    return raised.value.message


@pytest.mark.spec("S2-19")
@pytest.mark.parametrize("option", OPTIONS)
def test_what_llamacpp_lacks_is_refused(option: str) -> None:
    told = refusal(**{option: OPTIONS[option]})
    flag = option.replace("_", "-")
    assert told.startswith(
        f"--{flag}: 'demo' runs on llamacpp, which has no option {option!r}; leave it"
    )
    assert "run on vllm" in told
    assert ("torch" in told) == (option not in [*list(OPTIONS)[3:5], "engine_arg"])


def test_all_of_them_are_told_at_once() -> None:
    assert len(refusal(**OPTIONS).splitlines()) == 1 + len(OPTIONS)


@pytest.mark.reliability("F-15")
def test_they_are_told_with_every_other_mistake(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "ssl_certfile: none.pem\n"
        "models:\n"
        "  one: {model: demo, dtype: half, context_length: x}\n"
        "  two: {model: demo, revision: v1, enforce_eager: true}\n"
        "  three: {model: ./none.gguf, revision: v1}\n"
    )
    with pytest.raises(ConfigurationError) as raised:
        configured(str(file))
    heading, *told = raised.value.message.splitlines()
    assert heading == "6 settings are wrong:"
    for line, says in zip(
        told,
        (
            "line 1: ssl_certfile 'none.pem'",
            "line 3: models.one.context_length 'x' must be",
            "line 3: models.one.dtype: 'one' runs on llamacpp",
            "line 4: models.two.revision: model 'two' is on this machine",
            "line 4: models.two.enforce_eager: 'two' runs on llamacpp",
            "line 5: models.three: The model file ./none.gguf does not exist",
        ),
        strict=True,
    ):
        assert says in line


@pytest.mark.parametrize(
    ("option", "default"),
    [("dtype", "auto"), ("enforce_eager", False), ("trust_remote_code", "false")],
)
def test_a_default_is_never_refused(option: str, default: object) -> None:
    assert check(configured(**{option: default})).missing == ()


def test_of_one_model_it_is_refused_wherever_it_is_given(tmp_path: Path) -> None:
    two = f"demo,two={_script(tmp_path)}"
    assert "--opt two.gpu_layers: 'two' runs on scripted" in refusal(two, **{"two.gpu_layers": 1})
    assert "OPEN_LLM_TWO_THREADS: 'two' runs" in refusal(two, {"OPEN_LLM_TWO_THREADS": "1"})
    file = tmp_path / "a.yaml"
    two_models = f"models:\n  demo:\n  two:\n    model: {_script(tmp_path)}\n    gpu_layers: 1\n"
    file.write_text(two_models)
    assert "line 5: models.two.gpu_layers: 'two' runs" in refusal(str(file))


def test_one_for_all_holds_for_those_that_have_it(tmp_path: Path) -> None:
    two = f"demo,two={_script(tmp_path)}"
    assert check(configured(two, gpu_layers=1)).missing == ()
    assert check(configured(two, {"OPEN_LLM_THREADS": "1"})).missing == ()
    told = refusal(two, enforce_eager="true")
    assert told == (
        "--enforce-eager: 'demo' runs on llamacpp, 'two' runs on scripted, which have no"
        " option 'enforce_eager'; leave it out, or give it to models that run on vllm"
    )


def test_a_tokenizer_for_all_passes_over_files_that_hold_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openllm.llm.choice.check_installed", lambda name: None)
    models = f"demo,folder={DEMO / 'safetensors'},two={_script(tmp_path)}"
    found = configured(models, tokenizer=str(DEMO / "safetensors"))
    assert check(found).missing == ()
    tokenizers = [each.tokenizer and each.tokenizer.path for each in fetch(found)]
    assert tokenizers == [None, str(DEMO / "safetensors"), None]
    assert "has no option 'tokenizer_revision'; leave it out" in refusal(tokenizer_revision="v1")


def test_one_for_all_that_the_others_replace_is_refused(tmp_path: Path) -> None:
    """What is for all here reaches the scripted model only, which has no use for it."""
    two = f"demo,two={_script(tmp_path)}"
    told = refusal(two, gpu_layers=1, **{"demo.gpu_layers": 2})
    assert told.startswith(
        "--gpu-layers: 'two' runs on scripted, which has no option 'gpu_layers';"
    )


def test_nothing_is_said_of_a_model_that_is_not_here_yet() -> None:
    for option in ({"gpu_layers": 1}, {"dtype": "half"}):
        configuration = configured("org/name", offline=True, **option)
        assert [each.name for each in check(configuration).missing] == ["name"]


def test_a_missing_model_may_be_one_that_has_it() -> None:
    assert len(check(configured("demo,org/name", dtype="half")).missing) == 1


def _script(folder: Path) -> str:
    path = folder / "two.script.json"
    path.write_text('{"default": {"reply": "one two"}}')
    return str(path)
