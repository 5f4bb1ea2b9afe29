"""`openllm list`, `show`, `rm`, `verify` and `gc` on a store with real files."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from openllm.cli import main
from openllm.cli.store_table import age_text
from openllm.models import store
from openllm.models.store import StoredModel
from tests.unit.models.store_models import COMMIT, SHARDS, added, downloaded, used_at

COMMANDS = ("list", "show", "rm", "verify", "gc")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    return tmp_path


def openllm(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def two() -> tuple[StoredModel, StoredModel]:
    one = added("llamacpp-org--tiny-gguf--tiny-q8", contents={"tiny-q8.gguf": b"q" * 1_234_567},
                source="org/tiny-GGUF", file="tiny-q8.gguf", refs=["main"])  # fmt: skip
    return one, added()


def tags() -> set[str]:
    return {model.tag for model in store.stored()}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "just now"), (59, "just now"), (60, "1 minute ago"), (7200, "2 hours ago"),
        (86400, "1 day ago"), (86400 * 15, "2 weeks ago"),
    ],
)  # fmt: skip
def test_ages_are_written_for_people(seconds: int, text: str) -> None:
    assert age_text(datetime.now(timezone.utc) - timedelta(seconds=seconds)) == text


@pytest.mark.spec("S4-26")
def test_list_is_a_table() -> None:
    one, two_ = two()
    done = openllm("list")
    title, *lines = done.stdout.splitlines()
    assert title.split() == ["TAG", "FORMAT", "SIZE", "USED", "SOURCE"]
    assert [line.split()[0] for line in lines] == [one.tag, two_.tag]
    assert lines[0].split(maxsplit=4)[1:4] == ["gguf", "1.2", "MiB"]
    assert lines[0].endswith("  just now  org/tiny-GGUF:tiny-q8.gguf")
    assert len({line.index("just now") for line in lines}) == 1


def test_list_as_json_has_bytes_and_times() -> None:
    one, _ = two()
    first, second = json.loads(openllm("list", "--json").stdout)
    assert first == {
        "tag": one.tag,
        "format": "gguf",
        "size": 1_234_567,
        "source": "org/tiny-GGUF",
        "revision": COMMIT,
        "refs": ["main"],
        "file": "tiny-q8.gguf",
        "path": one.path,
        "created": one.created.isoformat().replace("+00:00", "Z"),
        "used": first["used"],
    }
    assert second["size"] == sum(map(len, SHARDS.values()))


def test_an_empty_store_is_no_error() -> None:
    done = openllm("list")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "openllm pull NAME" in done.stderr
    assert openllm("list", "--json").stdout == "[]\n"
    assert openllm("verify").exit_code == openllm("gc").exit_code == 0


def test_show_has_every_file_with_its_hash() -> None:
    _, model = two()
    text = openllm("show", "pt-org--model").stdout
    assert all(file.name in text and file.sha256 in text for file in model.files)
    shown = json.loads(openllm("show", model.tag, "--json").stdout)
    assert [file["sha256"] for file in shown["files"]] == [file.sha256 for file in model.files]
    assert shown["tag"] == model.tag
    assert f"{COMMIT} (main)" in openllm("show", "llamacpp-org--tiny-gguf--tiny-q8").stdout


def test_show_of_a_model_of_bentoml(home: Path) -> None:
    folder = downloaded(home / "models" / "made" / "1", {"m.gguf": b"m"})
    (folder / "model.yaml").write_text("creation_time: '2024-01-01T00:00:00+00:00'\n")
    assert "unknown: BentoML stored it" in openllm("show", "made").stdout
    assert json.loads(openllm("show", "made", "--json").stdout)["files"][0]["sha256"] is None
    assert "not checked, no hashes" in openllm("verify").stdout


@pytest.mark.parametrize("command", ["show", "rm", "verify"])
def test_an_unknown_tag_is_refused_with_those_that_are_near(command: str) -> None:
    one, model = two()
    for typed, near in {
        "pt-org--modle": model.tag,
        "tiny": one.tag,
        f"{model.name}:123": model.tag,
        "pt-org--model:9": model.tag,
    }.items():
        done = openllm(command, typed)
        assert (done.exit_code, done.stdout) == (2, "")
        assert f"no model '{typed}' in the store; did you mean " in done.stderr
        assert near in done.stderr
    assert "`openllm list` shows what there is" in openllm(command, "zzz").stderr
    for tag in tags():
        store.remove(tag)
    assert "it is empty" in openllm(command, "zzz").stderr


@pytest.mark.reliability("S-28")
@pytest.mark.parametrize("command", ["show", "rm", "verify"])
@pytest.mark.parametrize(
    "name",
    [
        *("..", "../..", "/etc", "~", ".", "a:..", "a:../../..", "%2e%2e", "a\\b", "CON"),
        *("x" * 300, "\u202ea", "e\u0301", "a.", "a ", " ", ":", "a:", ":a"),
    ],
)
def test_a_hostile_tag_is_only_unknown(home: Path, command: str, name: str) -> None:
    two()
    (home / "secret").mkdir()
    before = sorted(home.rglob("*"))
    done = openllm(command, "--", name)
    assert (done.exit_code, done.stdout) == (2, "")
    assert sorted(home.rglob("*")) == before


def test_rm_removes_all_or_none_that_were_named() -> None:
    one, model = two()
    assert openllm("rm", one.tag, "unknown").exit_code == 2
    assert tags() == {one.tag, model.tag}
    done = openllm("rm", one.tag, model.name, model.tag)
    assert done.exit_code == 0
    assert done.stdout == f"Removed {one.tag}, 1.2 MiB\nRemoved {model.tag}, 9.8 KiB\n"
    assert tags() == set()


def test_rm_does_not_guess_a_version() -> None:
    two()
    added(version="f" * 40)
    done = openllm("rm", "pt-org--model")
    assert (done.exit_code, len(tags())) == (2, 3)
    assert f"has 2 versions; name one: pt-org--model:{COMMIT}, pt-org--model:fff" in done.stderr


def test_rm_leaves_what_is_in_use() -> None:
    one, model = two()
    holding = store.hold(model)
    done = openllm("rm", one.tag, model.tag)
    assert (done.exit_code, tags()) == (1, {model.tag})
    assert f"{model.tag} is in use; stop the server" in done.stderr
    holding.close()
    assert openllm("rm", model.tag).exit_code == 0


@pytest.mark.parametrize(
    ("typed", "arguments", "left", "status"),
    [("n\n", [], 1, 1), ("y\n", [], 0, 0), ("", ["--yes"], 0, 0), ("", ["-y"], 0, 0)],
)
def test_rm_asks_on_a_terminal(typed: str, arguments: list[str], left: int, status: int) -> None:
    model = added()
    ours, theirs = pty.openpty()
    os.write(ours, typed.encode())
    done = subprocess.run(
        [sys.executable, "-m", "openllm.cli", "rm", model.tag, *arguments],
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=30,
    )
    os.close(ours)
    os.close(theirs)
    assert (done.returncode, len(tags())) == (status, left)
    assert ("Remove this model? [y/N]" in done.stderr) == bool(typed)


@pytest.mark.reliability("F-13")
def test_verify_names_the_file_and_the_fix() -> None:
    one, model = two()
    done = openllm("verify")
    assert done.exit_code == 0
    assert f"{one.tag}: ok, 1 file, 1.2 MiB\n{model.tag}: ok, 4 files, 9.8 KiB\n" == done.stdout
    Path(one.path).write_bytes(b"p" + Path(one.path).read_bytes()[1:])
    Path(model.folder, "config.json").write_bytes(b"{ }")
    done = openllm("verify", one.tag, model.tag)
    assert done.exit_code == 1
    assert f"tiny-q8.gguf: expected sha256 {one.files[0].sha256}, found sha256 " in done.stdout
    assert "  config.json: expected 2 bytes, found 3 bytes\n" in done.stdout
    assert f"fix: openllm rm --yes {model.tag} && openllm pull org/model@{COMMIT}\n" in done.stdout
    assert f"openllm pull org/tiny-GGUF@{COMMIT}:tiny-q8.gguf\n" in done.stdout
    assert openllm("verify", one.tag).exit_code == 1


@pytest.mark.parametrize(
    ("source", "fix"),
    [("https://h/m.gguf", "openllm pull https://h/m.gguf"), ("/a/m.gguf", "again from /a/m.gguf")],
)
def test_the_fix_for_a_model_without_a_commit(source: str, fix: str) -> None:
    model = added("n", "1", contents={"m.gguf": b"m"}, source=source, revision="")
    Path(model.path).unlink()
    assert fix in openllm("verify").stdout


def test_gc_says_what_it_removes_and_keeps_to_the_quota() -> None:
    one, model = two()
    used_at(one, 1_000_000_000)
    old = downloaded(store.staging("a/old", COMMIT), {"part": b"p" * 1000})
    for path in (*old.iterdir(), old):
        os.utime(path, (1, 1))
    lines = openllm("gc", "--store-quota", "1MB", "--dry-run").stdout.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"Would remove {one.tag}",
        f"Would remove {old}",
        "Would free 1.2 MiB; models occupy 9.8 KiB.",
    ]
    assert tags() == {one.tag, model.tag}
    assert old.exists()
    done = openllm("gc", "--store-quota", "1MB")
    assert done.exit_code == 0
    assert (
        done.stdout
        == "\n".join(lines).replace("Would remove", "Removed").replace("Would free", "Freed") + "\n"
    )
    assert tags() == {model.tag}
    assert openllm("gc").stdout.startswith("Freed 0 B; models occupy 9.8 KiB.\n")


def test_gc_fails_if_what_must_stay_is_too_much() -> None:
    _, model = two()
    holding = store.hold(model)
    done = openllm("gc", "--store-quota", "0")
    holding.close()
    assert (done.exit_code, tags()) == (1, {model.tag})
    assert "in use or could not be downloaded again occupy 9.8 KiB, more than" in done.stderr


@pytest.mark.parametrize(
    ("typed", "fits"),
    [
        *[(size, True) for size in ("10059", "10.1KB", "10.1 kb", "9.83KiB", "1M", "1g", "1 TiB")],
        *[(size, False) for size in ("10058", "10KB", "9.8KiB", "0", "10058B")],
    ],
)
def test_the_quota_has_units(typed: str, fits: bool) -> None:
    assert added().size == 10059
    openllm("gc", "--store-quota", typed)
    assert (len(tags()) == 1) == fits


@pytest.mark.parametrize("typed", ["", "GB", "-1", "1e3", "5 XB", "5GBs", "nan", "\u0665GB"])
def test_a_quota_that_is_none_is_refused(typed: str) -> None:
    two()
    done = openllm("gc", "--store-quota", typed)
    assert (done.exit_code, len(tags())) == (2, 2)
    assert "'--store-quota'" in done.stderr
    assert "write a number of bytes, or a size such as 4GiB" in done.stderr


def test_the_quota_of_the_environment_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    added()
    monkeypatch.setenv("OPEN_LLM_STORE_QUOTA", "x")
    done = openllm("gc")
    assert (done.exit_code, len(tags())) == (2, 1)
    assert "OPEN_LLM_STORE_QUOTA" in done.stderr
    monkeypatch.setenv("OPEN_LLM_STORE_QUOTA", "10KB")
    assert openllm("gc", "--store_quota", "1MB").stdout.startswith("Freed 0 B")
    assert openllm("gc").exit_code == len(tags()) == 0


@pytest.mark.reliability("F-07")
def test_gc_lists_interrupted_downloads_and_removes_them_when_told() -> None:
    folder, running = (store.staging(source, COMMIT) for source in ("org/large", "org/other"))
    store.begin(folder)
    (folder / "part").write_bytes(b"p" * 3_000_000)
    (running / "part").write_bytes(b"p" * 1000)
    with open(store.lock_of(running), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for arguments in ((), ("--dry-run",), ("--interrupted", "--dry-run")):
            listed = openllm("gc", *arguments).stdout
            assert (folder.exists(), str(running) in listed) == (True, False)
        assert f"Would remove {folder}\nWould free 2.9 MiB; " in listed
        assert openllm("gc").stdout == (
            "Freed 0 B; models occupy 0 B.\n"
            f"Left {folder}, 2.9 MiB, a download interrupted just now; --interrupted removes it.\n"
        )
        done = openllm("gc", "--interrupted").stdout
    assert done == f"Removed {folder}\nFreed 2.9 MiB; models occupy 0 B.\n"
    assert not folder.exists()
    assert running.exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_that_cannot_be_used_is_one_line(
    home: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/store")

    for name in ("openllm.models.store.stored", "openllm.models.store.collect"):
        monkeypatch.setattr(name, refuse)
    done = openllm(command, *(["x"] if command in ("show", "rm") else []))
    assert (done.exit_code, done.stderr) == (1, "Error: /store: Permission denied\n")


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["show", "tiny"], ["rm", "tiny"], ["verify"], ["gc", "--store-quota", "9GB"]],
)
def test_the_commands_load_nothing_heavy(arguments: list[str]) -> None:
    added("tiny", "1", contents={"m.gguf": b"m"})
    code = (
        "import sys; from openllm.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'bentoml', 'torch', 'transformers', 'huggingface_hub', 'pydantic', 'rich'}\n"
        "print(*heavy & {*sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.split() == []


@pytest.mark.parametrize("command", ["gc", "list", "pull", "fit", "rm", "show", "verify"])
def test_a_flag_given_twice_is_refused(command: str) -> None:
    arguments = [] if command in ("gc", "list") else ["org/x"]
    twice = ("--models-dir", "a", "--models-dir", "a")
    done = CliRunner().invoke(main, [command, *arguments, *twice])
    assert done.exit_code == 2
    assert "--models-dir is given twice; leave one out" in done.stderr
