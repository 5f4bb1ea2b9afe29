from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.subject import SUBJECTS, Subject


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "subject" in metafunc.fixturenames:
        names = metafunc.config.getoption("--engines").split(",")
        metafunc.parametrize("subject", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
async def subject(
    request: pytest.FixtureRequest, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Subject]:
    """Every engine in turn, started once for all tests."""
    async with SUBJECTS[request.param](tmp_path_factory.mktemp("engine")) as subject:
        yield subject
