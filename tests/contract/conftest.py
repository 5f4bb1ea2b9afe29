from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.adapted import ADAPTED, Adapted
from tests.contract.subject import EMBEDDERS, SUBJECTS, Subject


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def embedder(
    request: pytest.FixtureRequest, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Subject]:
    """Every engine in turn, so that it embeds."""
    async with EMBEDDERS[request.param](tmp_path_factory.mktemp("embedder")) as subject:
        yield subject


@pytest.fixture(scope="module")
async def adapted(
    request: pytest.FixtureRequest, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Adapted]:
    """Every engine that has LoRA adapters in turn, with some."""
    async with ADAPTED[request.param](tmp_path_factory.mktemp("adapted")) as adapted:
        yield adapted


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, scope in (("subject", "session"), ("embedder", "module"), ("adapted", "module")):
        if fixture in metafunc.fixturenames:
            names = metafunc.config.getoption("--engines").split(",")
            names = [name for name in names if name in getattr(metafunc.module, "ENGINES", names)]
            if fixture == "adapted":
                names = [name for name in names if name in ADAPTED]
            metafunc.parametrize(fixture, names, indirect=True, scope=scope)


@pytest.fixture(scope="session")
async def subject(
    request: pytest.FixtureRequest, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Subject]:
    """Every engine in turn, started once for all tests."""
    async with SUBJECTS[request.param](tmp_path_factory.mktemp("engine")) as subject:
        yield subject
