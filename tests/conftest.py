"""Shared plumbing: the async backend, and the report of specification items (`--spec-report`)."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

IDS = Path(__file__).parent.parent / "docs" / "spec_ids.txt"

OF_THE_USER = re.compile(
    r"(OPEN_LLM|OPENAI|BENTOML|HF|HUGGING_?FACE(HUB)?)_.*|.*_PROXY"
    r"|(NO|FORCE|CLI)_?COLOR(_FORCE)?|COLUMNS|LINES",
    re.IGNORECASE,
)
"""Variables that would change what is tested: the user's servers, keys, hubs, proxies, colours."""

# How long an example takes says more of the machine than of the code, and a change is not to fail
# for an example that luck has found: the same ones are tried every time.
settings.register_profile(
    "any machine",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("any machine")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--spec-report",
        action="store_true",
        help="print which items of the specification have passing tests",
    )
    parser.addoption(
        "--spec-outcomes",
        type=Path,
        metavar="FILE",
        help="add this run's outcomes to those of earlier runs in FILE",
    )
    parser.addoption(
        "--engines",
        default="scripted,llamacpp,demo",
        help="the engines that the contract is held against, separated by commas",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_SpecReport(config), "spec-report")
    _leave_the_user_alone(config)


def _leave_the_user_alone(config: pytest.Config) -> None:
    """Forget the user's settings; neither read nor write his store and his hub's cache."""
    for name in filter(OF_THE_USER.fullmatch, tuple(os.environ)):
        del os.environ[name]
    folder = tempfile.TemporaryDirectory(prefix="openllm-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    os.environ["BENTOML_HOME"] = str(Path(folder.name, "bentoml"))
    os.environ["HF_HOME"] = str(Path(folder.name, "huggingface"))


def _ids(item: pytest.Item) -> Iterator[str]:
    for name in ("spec", "reliability"):
        for marker in item.iter_markers(name):
            yield from marker.args


class _SpecReport:
    """Collects, for each marked id, how its tests ended."""

    def __init__(self, config: pytest.Config) -> None:
        self.known = IDS.read_text().split()
        self.wanted = config.getoption("--spec-report")
        self.file: Path | None = config.getoption("--spec-outcomes")
        self.outcomes: dict[str, set[str]] = defaultdict(set)
        self.ids_of: dict[str, tuple[str, ...]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            self.ids_of[item.nodeid] = ids = tuple(_ids(item))
            if unknown := set(ids) - set(self.known):
                raise pytest.UsageError(f"{item.nodeid} marks unknown ids: {sorted(unknown)}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            for each in self.ids_of.get(report.nodeid, ()):
                self.outcomes[each].add(report.outcome)

    def pytest_sessionfinish(self) -> None:
        if self.file is None:
            return
        if self.file.exists():
            for each, earlier in json.loads(self.file.read_text()).items():
                self.outcomes[each].update(earlier)
        kept = {each: sorted(found) for each, found in self.outcomes.items() if found}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(kept))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.wanted:
            return
        proven = [each for each in self.known if self.outcomes[each] == {"passed"}]
        broken = [each for each in self.known if self.outcomes[each] - {"passed"}]
        missing = [each for each in self.known if not self.outcomes[each]]
        terminalreporter.section("specification")
        for title, ids in (("passing", proven), ("not passing", broken), ("no test", missing)):
            terminalreporter.write_line(f"{title} ({len(ids)}): {' '.join(ids)}")
