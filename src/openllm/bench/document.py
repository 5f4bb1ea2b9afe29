"""The JSON document of a run: everything needed to judge or repeat it, nothing that names a host.

The version in `schema` changes when a field is removed or changes its meaning.
"""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import orjson

from openllm._version import __version__
from openllm.bench.report import compare, summarise, summarise_side
from openllm.bench.run import Round, Run, Side
from openllm.bench.settings import BenchSettings, RequestRecord

SCHEMA = "openllm-bench/1"


def document(run: Run) -> dict[str, Any]:
    """Return the run as plain JSON values; times in ms where the name says so, else seconds."""
    return {
        "schema": SCHEMA,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "interrupted": run.interrupted,
        "environment": environment(),
        "settings": _settings(run.settings),
        "prompt_fit": msgspec.to_builtins(run.fit),
        "servers": [_side(side, run.settings) for side in run.sides],
        "comparison": msgspec.to_builtins(compare(run)),
    }


def write_document(run: Run, path: Path) -> None:
    """Write `document` to `path` as indented JSON; raises OSError."""
    path.write_bytes(orjson.dumps(document(run), option=orjson.OPT_INDENT_2) + b"\n")


def environment() -> dict[str, Any]:
    """Versions and size of the machine the load generator ran on."""
    return {
        "openllm": __version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
    }


def _settings(settings: BenchSettings) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(settings)
    prompts = values.pop("prompts")
    text = "\n".join(prompts).encode()
    values["prompt_file"] = (
        {"prompts": len(prompts), "sha256": sha256(text).hexdigest()} if prompts else None
    )
    return values


def _side(side: Side, settings: BenchSettings) -> dict[str, Any]:
    target = side.target
    return {
        "label": side.label,
        "url": target.url if target.loopback else f"a remote server, {target.path or '/'}",
        "model": side.name,
        "summary": msgspec.to_builtins(summarise_side(side, settings.goodput)),
        "rounds": [_round(one, settings) for one in side.rounds],
    }


def _round(one: Round, settings: BenchSettings) -> dict[str, Any]:
    summary = summarise(one.records, one.duration, settings.goodput)
    return {
        "number": one.number,
        "start_s": round(one.start, 6),
        "summary": msgspec.to_builtins(summary),
        "requests": [_request(record) for record in one.records],
    }


def _request(record: RequestRecord) -> dict[str, Any]:
    return {
        "start_s": round(record.start, 6),
        "ttft_s": None if record.ttft is None else round(record.ttft, 6),
        "latency_s": round(record.latency, 6),
        "chunks": 0 if record.ttft is None else len(record.gaps) + 1,
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens,
        "error": record.error,
    }
