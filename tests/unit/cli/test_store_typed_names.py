"""`openllm show`, `rm` and `verify` take what `openllm pull` takes, where a model is stored."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from openllm.cli import main
from openllm.models import families, store
from openllm.models.locate import expand
from openllm.models.ref import parse_ref
from openllm.models.store import StoredModel
from openllm.models.store_names import meant_by
from tests.unit.models.store_models import COMMIT, added

NEWER = "f" * 40
URL = "https://host/some/m.gguf"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def openllm(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def gguf(source: str, file: str, name: str, **options: object) -> StoredModel:
    return added(name, contents={file: file.encode()}, source=source, file=file, **options)


@pytest.fixture
def whole() -> StoredModel:
    return added("pt-org--tiny", source="org/tiny", refs=["main", "dev"])


@pytest.fixture
def files() -> list[StoredModel]:
    return [
        gguf("org/multi", f"sub/m-{kind}.gguf", f"llamacpp-org--multi--{kind.lower()}")
        for kind in ("Q4_K_M", "Q8_0")
    ]


@pytest.mark.parametrize(
    "typed",
    [
        "org/tiny", "Org/TINY", "org/tiny@main", f"org/tiny@{COMMIT}", f"org/tiny@{COMMIT[:7]}",
        "name=org/tiny", "pt-org--tiny",
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["show", "verify", "rm"])
def test_a_hub_id_means_what_is_stored_of_it(whole: StoredModel, command: str, typed: str) -> None:
    done = openllm(command, typed)
    assert done.exit_code == 0, done.stderr
    assert whole.tag in done.stdout
    assert (store.stored() == ()) == (command == "rm")


@pytest.mark.parametrize("typed", ["org/tiny@other", "org/tiny:x.gguf", "org/tin", "x", "org/"])
def test_what_is_not_stored_is_unknown(whole: StoredModel, typed: str) -> None:
    done = openllm("rm", typed)
    assert (done.exit_code, store.stored()) == (2, (whole,))
    assert f"There is no model {typed!r} in the store" in done.stderr


def test_one_file_of_several_by_name_or_quantisation(files: list[StoredModel]) -> None:
    four, eight = files
    assert meant_by("org/multi:q8_0") == meant_by("org/multi:sub/m-Q8_0.gguf") == (eight,)
    assert meant_by("org/multi:Q4_K") == ()
    for command in ("show", "verify", "rm"):
        done = openllm(command, "org/multi")
        assert (done.exit_code, done.stdout) == (2, "")
        assert f"means 2 stored models; name one: {four.tag}, {eight.tag}" in done.stderr
    assert openllm("rm", "org/multi:Q8_0").exit_code == 0
    assert store.stored() == (four,)
    assert meant_by("org/multi") == (four,)


def test_the_whole_model_comes_before_its_files(whole: StoredModel) -> None:
    file = gguf("org/tiny", "m.gguf", "llamacpp-org--tiny--m")
    assert meant_by("org/tiny") == (whole,)
    assert meant_by("org/tiny:m.gguf") == (file,)


def test_two_commits_are_named(whole: StoredModel) -> None:
    newer = added("pt-org--tiny", NEWER, source="org/tiny")
    done = openllm("rm", "org/tiny")
    assert f"means 2 stored models; name one: {whole.tag}, {newer.tag}" in done.stderr
    assert meant_by("org/tiny@dev") == (whole,)
    assert meant_by("org/tiny@fff") == ()
    assert meant_by("org/tiny@ffff") == (newer,)


def test_urls_and_families(home: Path) -> None:
    url = gguf(URL, "m.gguf", "llamacpp-m", revision="")
    assert meant_by(URL) == (url,)
    typed, meant = next(
        (f"{family.name}:{size}", meant)
        for family in families.families()
        for size, text in family.sizes.items()
        if (meant := expand(parse_ref(text))).kind == "hub" and not meant.file
    )
    meant = expand(parse_ref(typed))
    model = added("pt-x", meant.revision or COMMIT, source=meant.repo)
    assert meant_by(typed) == (model,)
    assert openllm("rm", typed).stdout.startswith(f"Removed {model.tag}, ")


def test_a_folder_of_that_name_does_not_hide_the_store(home: Path, whole: StoredModel) -> None:
    (home / "org" / "tiny").mkdir(parents=True)
    assert meant_by("org/tiny") == (whole,)
