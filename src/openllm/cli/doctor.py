"""`openllm doctor`: what is installed, what works here, and why not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from openllm.cli.ending import FAILED
from openllm.cli.store_flag import folder_flag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from openllm.cli.doctor_check import Finding, Topic

LIMIT = 4.2
"""Seconds after which what has not answered is left alone."""

_COLOURS = {"ok": "green", "off": "bright_black", "warn": "yellow", "fail": "red"}
_INDENT = " " * 8


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@folder_flag()
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, models_dir: str | None) -> None:
    """Say what is installed, which engines work here, and why the others do not.

    Looks at packages, devices, memory, the store, the hub and the settings of the environment; it
    changes nothing and takes at most five seconds. `off` is something that is not here and need
    not be. The exit status is 1 if something fails, else 0. No key, token or password is shown.
    """
    from openllm.cli.doctor_check import examine

    typed = ctx.get_parameter_source("models_dir") is ParameterSource.COMMANDLINE
    found = examine(_topics({"models_dir": models_dir} if typed else {}), LIMIT)
    click.echo(_json(found) if as_json else _table(found))
    failed = any(finding.check.status == "fail" for finding in found)
    sys.exit(FAILED if failed else 0)


def _topics(options: Mapping[str, object]) -> list[Topic]:
    from openllm.cli.doctor_check import Topic
    from openllm.cli.doctor_engines import engine_topics
    from openllm.cli.doctor_machine import look_at_machine
    from openllm.cli.doctor_network import look_at_hub, look_at_port
    from openllm.cli.doctor_packages import look_at_packages, look_at_python
    from openllm.cli.doctor_settings import SettingsHere, look_at_settings
    from openllm.cli.doctor_store import look_at_store

    settings = SettingsHere(options)
    return [
        Topic("Python", look_at_python),
        Topic("Packages", look_at_packages),
        *engine_topics(),
        Topic("Machine", look_at_machine),
        Topic("Store", lambda: look_at_store(settings.store_origin())),
        Topic("Hub", lambda: look_at_hub(settings.download())),
        Topic("Server", lambda: look_at_port(settings.server())),
        Topic("Settings", lambda: look_at_settings(settings)),
    ]


def _json(found: Sequence[Finding]) -> str:
    import json

    from openllm._version import __version__

    checks = [{"topic": each.topic, **each.check._asdict()} for each in found]
    ok = all(each.check.status != "fail" for each in found)
    return json.dumps({"version": __version__, "ok": ok, "checks": checks}, ensure_ascii=False)


def _table(found: Sequence[Finding]) -> str:
    lines: list[str] = []
    topic = ""
    for each in found:
        if each.topic != topic:
            topic = each.topic
            lines.append(click.style(topic, bold=True))
        check = each.check
        mark = click.style(f"{check.status:<4}", fg=_COLOURS[check.status])
        lines.append(f"  {mark}  {check.name}: {check.text}")
        if check.fix:
            lines.append(f"{_INDENT}{check.fix}")
    return "\n".join([*lines, _summary(found)])


def _summary(found: Sequence[Finding]) -> str:
    counts = {
        status: sum(each.check.status == status for each in found) for status in ("fail", "warn")
    }
    if not any(counts.values()):
        return "Nothing is wrong."
    return f"{counts['fail']} failed, {counts['warn']} to look at."
