"""Every option, in every way that it can be given: the same value, and the first way wins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openllm.bento.options import read_configuration
from openllm.config.effective import Setting
from openllm.config.fields import ALIASES, FIELDS, MODEL_FIELDS, choices, is_list, plain_type
from openllm.config.names import variable
from openllm.errors import ConfigurationError

TEXTS = {
    "sha256": "0" * 64, "hub_endpoint": "https://hub.example", "hub_token": "hf_x",
    "download_header": "a: b", "device": "cpu", "lora": "a=/b", "allowed_origin": "https://a.example",
}  # fmt: skip
"""Texts that are taken where not any is."""

WITH_A_CERTIFICATE = tuple(name for name in FIELDS if name.startswith("ssl_"))


def sample(name: str) -> Any:
    """Return a value of the field as a file has it, which is not its default."""
    field = FIELDS[name]
    kind = plain_type(field.annotation)
    if several := choices(field.annotation):
        return next(each for each in several if each != field.default)
    if kind is bool:
        return not field.default
    if name == "workers":  # Nothing else is right.
        return 1
    if kind in (int, float):
        return (
            kind(1) if field.default != 1 and "bytes" not in name and "rate" not in name else 4096
        )
    return TEXTS.get(name, "text")


def written(value: Any) -> str:
    """Return it as the command line and the environment have it."""
    return json.dumps(value) if isinstance(value, (bool, int, float)) else str(value)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "store"))


def setting(name: str, options: dict[str, object], environ: dict[str, str], file: Any) -> Setting:
    """Return what holds where the model "one" and the server are given these."""
    Path("a.yaml").write_text(json.dumps({**file, "models": {"one": file.get("models", {})}}))
    environ = {"OPEN_LLM_CONFIGURATION": "a.yaml", **environ}
    found = read_configuration("one=org/name", options, environ)
    return {**found.settings, **found.entries[0].settings}[name]


@pytest.mark.spec("S0-29", "S0-30", "S0-31", "S0-33")
@pytest.mark.parametrize("name", [each for each in FIELDS if each not in WITH_A_CERTIFICATE])
def test_every_way_means_the_same_and_the_first_wins(name: str, tmp_path: Path) -> None:
    value = sample(name)
    if name == "api_key_file":
        (tmp_path / value).write_text("key")
    of_model = name in MODEL_FIELDS
    options: dict[str, object] = {f"one.{name}": written(value)} if of_model else {}
    options[name] = written(value)
    environ = {variable(name, "one"): written(value)} if of_model else {}
    environ[variable(name)] = written(value)
    file = {"models": {name: value}, name: value} if of_model else {name: value}
    found: list[Setting] = []
    while True:
        found.append(setting(name, options, environ, file))
        sources: list[dict[str, Any]] = [options, environ, file]
        if not (source := next(filter(None, sources), None)):
            break
        del source[next(iter(source))]
    *given, default = found
    assert {repr(each.value) for each in given} == {repr(given[0].value)}
    assert [each.origin.rpartition(": ")[2] for each in given] == [
        *([f"--opt one.{name}"] if of_model else []),
        f"--{name.replace('_', '-')}",
        *([variable(name, "one")] if of_model else []),
        variable(name),
        *([f"models.one.{name}"] if of_model else []),
        name,
    ]
    assert (default.value, default.origin) == (FIELDS[name].default, "default")
    assert name == "workers" or given[0].value != default.value


@pytest.mark.spec("S0-34")
@pytest.mark.parametrize("name", [*FIELDS, *ALIASES])
def test_every_way_tells_what_was_meant(name: str) -> None:
    typed = f"{name}x"
    Path("a.yaml").write_text(f"{typed}: 1\nmodels:\n  one: {{{typed}: 1}}\n")
    options: dict[str, object] = {f".{typed}": "1", f"one.{typed}": "1"}
    environ = {
        variable(typed): "1",
        variable(typed, "one"): "1",
        "OPEN_LLM_CONFIGURATION": "a.yaml",
    }
    with pytest.raises(ConfigurationError) as raised:
        read_configuration("one=org/name", options, environ)
    _, *told = raised.value.message.splitlines()
    meant = [line.rpartition("did you mean ")[2] for line in told]
    of_model = ALIASES.get(name, name) in MODEL_FIELDS
    assert len(told) == 6
    assert meant.count(f"{name!r}?") >= (4 if of_model else 2)
    assert f"{variable(name)}?" in meant
    assert not of_model or f"{variable(name, 'one')}?" in meant


def test_lists_are_lists_in_every_way() -> None:
    for name in filter(lambda each: is_list(FIELDS[each]), FIELDS):
        value = TEXTS.get(name, "text")
        assert setting(name, {}, {}, {name: [value]}).value == (value,)
        assert setting(name, {}, {}, {name: value}).value == (value,)
        assert setting(name, {name: (value, value)}, {}, {}).value == (value, value)
