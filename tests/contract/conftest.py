from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.subject import SUBJECTS, Subject


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", params=list(SUBJECTS))
async def subject(
    request: pytest.FixtureRequest, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Subject]:
    """Every engine in turn, started once for all tests."""
    async with SUBJECTS[request.param](tmp_path_factory.mktemp("engine")) as subject:
        yield subject
