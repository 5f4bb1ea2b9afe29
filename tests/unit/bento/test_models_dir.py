"""`models_dir`: BENTOML_HOME as an option, and relative files below it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import openllm
from openllm.bento.checks import check
from openllm.bento.options import read_configuration
from openllm.cli import main
from openllm.cli.doctor_store import look_at_store
from openllm.errors import ConfigurationError, ModelFileError
from openllm.models.locate import find_local
from openllm.models.ref import parse_ref
from openllm.models.store import home
from tests.unit.models.store_models import added

GGUF = Path(openllm.__file__).parent / "demo" / "demo-q8_0.gguf"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, whose neighbour is the store."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "store"))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def read(models: str | None = "demo", environ: dict[str, str] | None = None, **options: Any) -> str:
    return str(read_configuration(models, options, environ or {}).server.models_dir)


@pytest.mark.spec("S2-21", "S3-02")
@pytest.mark.parametrize("name", ["models_dir", "models-dir", "download_dir", "download-dir"])
def test_an_option_of_any_spelling_is_the_store(tmp_path: Path, name: str) -> None:
    assert read(**{name: "../other"}) == str(tmp_path / "other")
    assert home() == tmp_path / "other"


@pytest.mark.parametrize("name", ["MODELS_DIR", "DOWNLOAD_DIR"])
def test_a_variable_is_the_store(tmp_path: Path, name: str) -> None:
    read(environ={f"OPEN_LLM_{name}": str(tmp_path)})
    assert home() == tmp_path


@pytest.mark.spec("S3-02")
def test_a_line_of_the_file_is_the_store(tmp_path: Path, elsewhere: Path) -> None:
    (elsewhere / "a.yaml").write_text("modelsDir: ../x\n")
    with pytest.raises(ConfigurationError, match="did you mean 'models_dir'"):
        read("a.yaml")
    (elsewhere / "a.yaml").write_text("models_dir: ../x\n")
    read("a.yaml")
    assert home() == tmp_path / "x"
    read("a.yaml", models_dir="../y")
    assert home() == tmp_path / "y"


def test_a_home_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read(models_dir="~/m") == str(tmp_path / "m")


def test_a_user_without_a_home_has_no_store(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BENTOML_HOME")
    monkeypatch.delenv("HOME")

    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", unknown)
    done = CliRunner().invoke(main, ["list"])
    assert done.exit_code == 2
    assert "the store of models is ~/bentoml, and there is no such home folder; set" in done.stderr
    (told,) = look_at_store()
    assert (told.name, told.status) == ("folder", "fail")
    assert openllm.LLM("demo").name == "demo"  # Which needs no store.
    assert list(elsewhere.iterdir()) == []
    monkeypatch.setenv("BENTOML_HOME", str(elsewhere))
    assert home() == elsewhere


def test_without_it_everything_stays() -> None:
    before = os.environ["BENTOML_HOME"]
    assert read() == "None"
    assert os.environ["BENTOML_HOME"] == before


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "--models-dir '': it is empty; give a folder or leave the option out"),
        (str(GGUF), "this is a file; give the path of a folder"),
        ("~no-such-user/x", "there is no such home folder; give the path from / on"),
        (3, "--models-dir 3 must be text, in quotes"),
    ],
)
def test_what_is_no_folder_is_refused(given: object, says: str) -> None:
    before = os.environ["BENTOML_HOME"]
    with pytest.raises(ConfigurationError) as raised:
        read(models_dir=given)
    assert says in raised.value.message
    assert os.environ["BENTOML_HOME"] == before


def test_taken_away_again_everything_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.environ["BENTOML_HOME"]
    read(models_dir=str(tmp_path / "a"))
    read(models_dir=str(tmp_path / "b"))
    with pytest.raises(ConfigurationError):
        read(port="x")
    assert os.environ["BENTOML_HOME"] == str(tmp_path / "b")
    read()
    assert os.environ["BENTOML_HOME"] == before
    monkeypatch.delenv("BENTOML_HOME")
    read(models_dir=str(tmp_path / "a"))
    read()
    assert "BENTOML_HOME" not in os.environ


def test_what_another_has_set_since_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(models_dir=str(tmp_path / "a"))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "c"))
    read()
    assert home() == tmp_path / "c"


def test_a_mistake_elsewhere_leaves_the_store_where_it_was(tmp_path: Path) -> None:
    before = os.environ["BENTOML_HOME"]
    with pytest.raises(ConfigurationError):
        read(models_dir=str(tmp_path), port="x")
    assert os.environ["BENTOML_HOME"] == before


@pytest.mark.spec("S3-10")
def test_a_relative_file_is_here_or_else_in_the_folder(tmp_path: Path, elsewhere: Path) -> None:
    store = tmp_path / "store"
    (store / "sub").mkdir(parents=True)
    shutil.copy(GGUF, store / "x.gguf")
    shutil.copy(GGUF, store / "sub" / "y.gguf")
    assert path("x.gguf") == str(store / "x.gguf")
    assert path("mine=x.gguf") == str(store / "x.gguf")
    assert path("sub/y.gguf") == str(store / "sub" / "y.gguf")
    shutil.copy(GGUF, elsewhere / "x.gguf")
    assert path("x.gguf") == str(elsewhere / "x.gguf")


@pytest.mark.spec("S3-10")
def test_a_home_and_an_absolute_path_are_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(GGUF, tmp_path / "x.gguf")
    assert path("~/x.gguf") == str(tmp_path / "x.gguf")
    assert path(str(GGUF)) == str(GGUF)


@pytest.mark.parametrize("source", ["./x.gguf", "../here/x.gguf", "y.gguf"])
def test_what_says_that_it_is_here_is_looked_for_nowhere_else(tmp_path: Path, source: str) -> None:
    (tmp_path / "store").mkdir()
    shutil.copy(GGUF, tmp_path / "store" / "x.gguf")
    with pytest.raises(ModelFileError, match=r"does not exist|no file"):
        path(source)


def test_a_start_finds_files_below_the_option(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    shutil.copy(GGUF, tmp_path / "mine" / "x.gguf")
    found = read_configuration("x.gguf", {"models_dir": str(tmp_path / "mine")}, {})
    assert check(found).missing == ()


@pytest.mark.spec("S2-21")
@pytest.mark.parametrize(
    "flags",
    [
        ("--models-dir", "{}"), ("--models_dir={}",), ("--download-dir", "{}"),
        ("--download_dir", "{}"),
    ],
)  # fmt: skip
def test_the_commands_of_the_store_take_it(tmp_path: Path, flags: tuple[str, ...]) -> None:
    os.environ["BENTOML_HOME"] = str(tmp_path / "full")
    tag = added().tag
    os.environ["BENTOML_HOME"] = str(tmp_path / "store")
    given = [each.format(tmp_path / "full") for each in flags]
    for command in (["list"], ["show", tag], ["verify", tag], ["rm", "-y", tag]):
        assert CliRunner().invoke(main, command).exit_code == (0 if command == ["list"] else 2)
        done = CliRunner().invoke(main, [*command, *given])
        assert done.exit_code == 0, done.stderr
        assert tag.partition(":")[0] in done.stdout + done.stderr
        os.environ["BENTOML_HOME"] = str(tmp_path / "store")


def test_its_variable_counts_for_the_commands_of_the_store(tmp_path: Path) -> None:
    os.environ["BENTOML_HOME"] = str(tmp_path / "full")
    tag = added().tag
    os.environ["BENTOML_HOME"] = str(tmp_path / "store")
    variables = {"OPEN_LLM_DOWNLOAD_DIR": str(tmp_path / "full")}
    assert tag in CliRunner(env=variables).invoke(main, ["list", "--json"]).stdout


@pytest.mark.parametrize("command", ["list", "gc", "doctor", "models"])
def test_a_file_is_refused_by_every_command(command: str) -> None:
    done = CliRunner().invoke(main, [command, "--models-dir", str(GGUF)])
    assert done.exit_code == 2
    assert "this is a file; give the path of a folder" in done.stderr


def path(text: str) -> str:
    found = find_local(parse_ref(text))
    assert found is not None
    return found.path
