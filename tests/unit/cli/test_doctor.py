"""`openllm doctor`: it always answers, in time, with the fix and without a secret."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from openllm.bento.options import read_configuration
from openllm.cli import doctor as command
from openllm.cli import main
from openllm.cli.doctor_check import Check, Topic, examine, hide, secrets_of
from openllm.cli.doctor_engines import engines
from openllm.cli.doctor_floors import FLOORS, is_older
from openllm.cli.doctor_packages import packages, required_floors
from openllm.cli.doctor_probe import probe

PROJECT = Path(__file__).parents[3] / "pyproject.toml"


def said(*topics: Topic, limit: float = 60.0) -> list[Check]:
    return [finding.check for finding in examine(topics, limit)]


def test_what_fails_or_hangs_is_a_warning_and_the_rest_is_told() -> None:
    def hang() -> list[Check]:
        time.sleep(60)
        return []

    def fail() -> list[Check]:
        raise RuntimeError("no such device")

    began = time.monotonic()
    found = said(
        Topic("Slow", hang),
        Topic("Broken", fail),
        Topic("Good", lambda: [Check("a", "ok", "b")]),
        limit=3.0,
    )
    assert time.monotonic() - began < 30
    assert found == [
        Check("slow", "warn", "there was no answer within 3 s"),
        Check("broken", "warn", "this could not be looked at: RuntimeError: no such device"),
        Check("a", "ok", "b"),
    ]


@pytest.mark.reliability("S-29")
def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "opaque-token-1")
    monkeypatch.setenv("OPEN_LLM_API_KEY", "first-key-22 second-key-33")
    monkeypatch.setenv("GIT_AUTHOR_NAME", "python")
    text = (
        "token opaque-token-1, keys second-key-33 and first-key-22, another hf_AbCdEf123456, "
        "proxy http://user:pass-word@proxy.example:3128, python"
    )
    (check,) = said(Topic("T", lambda: [Check("n", "ok", text, text)]))
    for shown in (check.text, check.fix):
        assert "opaque" not in shown
        assert "key-22" not in shown
        assert "key-33" not in shown
        assert "AbCdEf" not in shown
        assert "pass-word" not in shown
        assert "http://***@proxy.example:3128, python" in shown


def test_a_path_or_a_short_value_is_no_secret(tmp_path: Path) -> None:
    environ = {"SSH_KEY": str(tmp_path), "A_TOKEN": "abc", "KEYBOARD": "english", "X_KEY": "secret"}
    assert secrets_of(environ) == ("secret",)


def test_text_stays_on_one_line_and_short() -> None:
    assert hide("a\n\tb  c", ()) == "a b c"
    assert len(hide("x" * 10_000, ())) < 1000


@pytest.mark.parametrize(
    ("version", "floor", "older"),
    [
        ("1.3.0", "1.3.1", True),
        ("1.3.1", "1.3.1", False),
        ("1.10", "1.3.1", False),
        ("2.6", "2.6.0", False),
        ("2.6.0+cu124", "2.6.0", False),
        ("0.0.9", "0.0.30", True),
        ("2026.10.11549", "2026.9", False),
        ("garbage", "1", True),
    ],
)
def test_versions_are_compared_by_number(version: str, floor: str, older: bool) -> None:
    assert is_older(version, floor) is older


def test_what_is_required_is_never_older_than_the_floors() -> None:
    """One who installs this package with its extras gets nothing that the doctor refuses."""
    required = dict(re.findall(r'"([a-z0-9-]+)>=([0-9.]+)', PROJECT.read_text()))
    checked = required.keys() & FLOORS.keys()
    assert checked >= {"bentoml", "starlette", "python-multipart", "h11", "vllm", "torch"}
    assert not [name for name in checked if is_older(required[name], FLOORS[name])]


def test_old_and_missing_packages_fail_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = {"good": "2.0", "old": "1.0", "unused": ""}
    monkeypatch.setattr(
        "openllm.cli.doctor_packages.installed_version", lambda name: installed.get(name, "")
    )
    floors = {"good": "1.5", "old": "1.5", "gone": "", "unused": "3"}
    good, old, gone = packages(floors, {"good", "old", "gone"})
    assert good == Check("packages", "ok", "good 2.0")
    assert (old.status, old.fix) == ("fail", "pip install 'old>=1.5'")
    assert "1.0 is older than 1.5" in old.text
    assert (gone.name, gone.status, gone.fix) == ("gone", "fail", "pip install gone")


def test_the_requirements_of_this_package_are_read() -> None:
    floors = required_floors()
    assert floors["bentoml"]
    assert "torch" not in floors  # Of an extra.


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_module_that_ends_the_interpreter_is_named(modules: Path) -> None:
    (modules / "fine_module.py").write_text("print('noise')")
    (modules / "raising_module.py").write_text("raise SystemExit('no')")
    (modules / "dying_module.py").write_text("import os; os.abort()")
    found = probe(["fine_module", "raising_module", "dying_module", "json"], 30)
    assert found.imported == {"fine_module"}
    assert found.failed == {
        "raising_module": "SystemExit: no",
        "dying_module": "it ends the interpreter: SIGABRT",
    }
    assert not found.late


def test_a_module_that_never_returns_is_left_alone_with_all_it_started(modules: Path) -> None:
    (modules / "slow_module.py").write_text(
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(modules)!r}, 'pid').write_text(str(child.pid))\n"
        "time.sleep(60)"
    )
    found = probe(["json", "slow_module"], 8)
    assert (found.imported, found.late, found.failed) == ({"json"}, True, {})
    pid = int((modules / "pid").read_text())
    deadline = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_modules_of_the_current_folder_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xllamacpp.py").write_text("raise ValueError('not me')")
    monkeypatch.chdir(tmp_path)
    assert probe(["xllamacpp"], 30).imported == {"xllamacpp"}


def test_engines_say_what_is_missing_and_what_is_broken(
    modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openllm import engines as table

    monkeypatch.setattr("openllm.cli.doctor_engines.LIMIT", 60.0)
    (modules / "dying_module.py").write_text("import os; os.abort()")
    monkeypatch.setattr(table, "ENGINES", dict(table.ENGINES))
    table.add_engine("dying", "x:Y", needs=["dying_module"], install="dying-package")
    table.add_engine("absent", "x:Y", needs=["absent_module"], install="absent-package")
    table.add_engine("after", "x:Y", needs=["dying_module", "json"])
    dying, absent, llamacpp, scripted = engines(["dying", "absent", "llamacpp", "scripted"])
    assert (dying.status, dying.text) == (
        "fail",
        "dying_module cannot be imported: it ends the interpreter: SIGABRT",
    )
    assert (absent.status, absent.text) == ("off", "not installed: absent_module")
    assert absent.fix == "to use it: pip install 'absent-package'"
    # It came after the one that ended the interpreter, so nothing is known of it.
    assert llamacpp.status == "warn"
    assert scripted.status == "ok"
    assert engines(["llamacpp"])[0].status == "ok"


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command, with time enough for a machine that does other things."""
    code = (
        "from openllm.cli import doctor, doctor_engines, main\n"
        "doctor.LIMIT = doctor_engines.LIMIT = 60.0\n"
        f"main(['doctor', '--json', *{arguments!r}])"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_it_tells_all_and_exits_zero(tmp_path: Path) -> None:
    done = run(BENTOML_HOME=str(tmp_path))
    assert (done.stderr, done.returncode) == ("", 0)
    told = json.loads(done.stdout)
    assert told["ok"]
    topics = {check["topic"] for check in told["checks"]}
    assert topics >= {"Python", "Packages", "Engines", "Machine", "Store", "Hub", "Server"}
    assert {check["name"]: check for check in told["checks"]}["llamacpp"]["status"] == "ok"
    assert all(set(check) == {"topic", "name", "status", "text", "fix"} for check in told["checks"])


def test_a_store_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(BENTOML_HOME=str(tmp_path / "file" / "store"))
    assert (done.stderr, done.returncode) == ("", 1)
    (folder,) = [each for each in json.loads(done.stdout)["checks"] if each["name"] == "folder"]
    assert folder["status"] == "fail"
    assert "BENTOML_HOME" in folder["fix"]


def test_the_table_shows_the_fix_below_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    topics = [
        Topic("Engines", lambda: [Check("a", "ok", "fine")]),
        Topic("Engines", lambda: [Check("b", "fail", "broken", "mend it")]),
        Topic("Hub", lambda: [Check("c", "warn", "slow")]),
    ]
    monkeypatch.setattr(command, "_topics", lambda _: topics)
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 1
    assert done.stdout == (
        "Engines\n  ok    a: fine\n  fail  b: broken\n        mend it\nHub\n  warn  c: slow\n"
        "1 failed, 1 to look at.\n"
    )


@pytest.mark.parametrize(
    ("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colours_can_be_declined(
    environ: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = [Topic("Engines", lambda: [Check("a", "ok", "fine")])]
    monkeypatch.setattr(command, "_topics", lambda _: topics)
    runner = CliRunner(env={"NO_COLOR": None, "TERM": "xterm", **environ})
    assert ("\x1b[" in runner.invoke(main, ["doctor"], color=True).stdout) is coloured


def test_each_wrong_setting_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "openllm.yaml"
    file.write_text("prot: 1\n")
    done = run(
        OPEN_LLM_CONFIGURATION=str(file),
        OPEN_LLM_PROT="1",
        OPEN_LLM_TOP_K="many",
        OPEN_LLM_API_KEY="the-secret-key",
        BENTOML_HOME=str(tmp_path),
    )
    assert (done.stderr, done.returncode) == ("", 1)
    wrong = [each for each in json.loads(done.stdout)["checks"] if each["topic"] == "Settings"]
    assert all(each["status"] == "fail" for each in wrong)
    told = " ".join(each["text"] for each in wrong)
    assert "OPEN_LLM_PROT" in told
    assert "OPEN_LLM_TOP_K" in told
    assert "openllm.yaml" in told
    assert "the-secret-key" not in done.stdout


def test_the_settings_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Mapping[str, object]] = []

    def reading(models: None, options: Mapping[str, object], environ: Mapping[str, str]) -> Any:
        read.append(options)
        return read_configuration(models, options, environ)

    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("openllm.bento.options.read_configuration", reading)
    monkeypatch.setattr("openllm.cli.doctor_engines.engine_topics", list)
    monkeypatch.setattr(command, "LIMIT", 60.0)
    done = CliRunner().invoke(main, ["doctor", "--json"])
    assert (done.exit_code, len(read)) == (0, 1)


def test_the_store_is_the_one_that_the_settings_choose(tmp_path: Path) -> None:
    file = tmp_path / "openllm.yaml"
    file.write_text(f"models_dir: {tmp_path / 'file'}\n")
    environ = {"OPEN_LLM_CONFIGURATION": str(file), "BENTOML_HOME": str(tmp_path / "home")}
    assert folder(run(**environ)).startswith(f"{tmp_path / 'file'} ({file}, line 1: models_dir)")
    environ["OPEN_LLM_MODELS_DIR"] = str(tmp_path / "variable")
    assert folder(run(**environ)).startswith(f"{tmp_path / 'variable'} (OPEN_LLM_MODELS_DIR)")
    flags = ("--models-dir", str(tmp_path / "flag"))
    assert folder(run(*flags, **environ)).startswith(f"{tmp_path / 'flag'} (--models-dir)")


def folder(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    return str(checks["folder"]["text"])
