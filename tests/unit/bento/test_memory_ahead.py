"""Whether models fit the memory, found out before the first byte of their weights is fetched."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from openllm.bento import launch, preflight
from openllm.bento.options import read_configuration
from openllm.bento.preflight import check_memory, check_memory_ahead
from openllm.cli import main
from openllm.config.effective import Configuration
from openllm.config.model import LoadOptions
from openllm.errors import ConfigurationError, ModelNotFoundError, OutOfMemoryError
from openllm.models.store import stored
from openllm.types import LocalModel
from tests.hub_server import HubServer, use_hub
from tests.unit.models.gguf_bytes import wide_model

MIB = 1 << 20
SIZE = 40 * MIB


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer({"org/big": {"big-Q4_0.gguf": wide_model(SIZE)}}) as server:
        use_hub(server.url, tmp_path, monkeypatch)
        yield server


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "free_memory", lambda: 4096 * MIB)
    monkeypatch.setattr(preflight, "free_cards", lambda: ())


def configuration(models: str = "org/big", **options: Any) -> Configuration:
    return read_configuration(models, {"context_length": 131072, **options}, {})


@pytest.mark.spec("S3-01")
def test_what_does_not_fit_is_refused_by_its_headers_with_the_words_of_later(
    hub: HubServer, tmp_path: Path
) -> None:
    with pytest.raises(OutOfMemoryError) as raised:
        launch.run(configuration(port=0), configuration)
    assert 0 < hub.body_bytes <= MIB
    assert stored() == ()
    assert list((tmp_path / "store" / "openllm" / "downloads").iterdir()) == []
    path = tmp_path / "big-Q4_0.gguf"
    path.write_bytes(wide_model(SIZE))
    model = LocalModel(name="big", path=str(path), format="gguf")
    with pytest.raises(OutOfMemoryError) as later:
        check_memory([(model, LoadOptions(context_length=131072))])
    assert raised.value.message == later.value.message
    assert "4.0 GiB are free" in raised.value.message
    found = re.search(r"the largest context_length that fits is (\d+); use a", later.value.message)
    assert found is not None
    check_memory([(model, LoadOptions(context_length=int(found[1])))])
    with pytest.raises(OutOfMemoryError):
        check_memory([(model, LoadOptions(context_length=int(found[1]) * 5 // 4))])


def test_where_no_context_fits_fit_shows_what_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my big.gguf"
    path.write_bytes(wide_model(SIZE))
    model = LocalModel(name="big", path=str(path), format="gguf")
    monkeypatch.setattr(preflight, "free_memory", lambda: 150 * MIB)
    with pytest.raises(OutOfMemoryError, match=f"shown by: openllm fit '{path}'"):
        check_memory([(model, LoadOptions(context_length=131072))])
    other = replace(model, name="other", path="/m.gguf", source="https://h/m.gguf?key=SECRET")
    facts = preflight.facts_of(model)
    monkeypatch.setattr(preflight, "facts_of", lambda _: facts)
    with pytest.raises(OutOfMemoryError) as both:
        check_memory([(each, LoadOptions(context_length=131072)) for each in (model, other)])
    assert f"openllm fit '{path}' and openllm fit 'https://h/m.gguf?...'" in both.value.message


def test_models_that_are_here_are_summed_with_those_that_are_not(
    hub: HubServer, tmp_path: Path
) -> None:
    path = tmp_path / "own.gguf"
    path.write_bytes(wide_model(MIB))
    options = {"context_length": 16384, "max_concurrency": 1}
    check_memory_ahead(configuration("org/big", **options).entries)
    check_memory_ahead(configuration(str(path), **options).entries)
    with pytest.raises(OutOfMemoryError, match=r"big .*; own "):
        check_memory_ahead(configuration(f"org/big,{path}", **options).entries)


def test_what_is_doubtful_is_told_once(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(preflight, "free_memory", lambda: 280 * MIB)
    entries = configuration(context_length=None).entries
    with caplog.at_level(logging.WARNING, "openllm"):
        assert check_memory_ahead(entries)
        path = tmp_path / "big-Q4_0.gguf"
        path.write_bytes(wide_model(SIZE))
        model = LocalModel(name="big", path=str(path), format="gguf")
        check_memory([(model, LoadOptions())], warned=True)
    (record,) = caplog.records
    assert "280.0 MiB are free" in record.getMessage()


@pytest.mark.parametrize("fault", ["ignore_range", "refuse_range"])
def test_a_hub_that_gives_no_parts_is_no_error(hub: HubServer, fault: str) -> None:
    setattr(hub.faults, fault, True)
    assert not check_memory_ahead(configuration(download_timeout=2.0).entries)


def test_of_a_small_model_nothing_is_fetched_twice(hub: HubServer) -> None:
    hub.add_repo("org/small", {"small.gguf": wide_model(MIB)})
    assert not check_memory_ahead(configuration("org/small").entries)
    assert hub.body_bytes == 0


def test_what_is_wrong_is_told_as_the_download_would(hub: HubServer) -> None:
    with pytest.raises(ModelNotFoundError, match="org/none"):
        check_memory_ahead(configuration("org/none", hub_token="hf_good").entries)
    with pytest.raises(ConfigurationError, match="openllm pull org/big"):
        check_memory_ahead(configuration(offline=True).entries)


@pytest.mark.parametrize(("free", "warned"), [(100 * MIB, True), (4096 * MIB, False)])
def test_pull_warns_and_goes_on(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, free: int, warned: bool
) -> None:
    monkeypatch.setattr(preflight, "free_memory", lambda: free)
    done = CliRunner().invoke(main, ["pull", "org/big"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("llamacpp-org--big:")
    told = [line for line in done.stderr.splitlines() if line.startswith("Warning: ")]
    assert [("100.0 MiB are free" in line) for line in told] == [True] * warned
