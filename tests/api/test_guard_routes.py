"""Deny by default: our routes need a key, and BentoML's are reached by nobody."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from openllm.bento.edge import Front, OwnRoutes, create_service
from openllm.config.model import RequestDefaults
from openllm.config.server import ServerSettings
from openllm.server.app import build_app
from openllm.server.guard import Guard
from tests.api.conftest import ScriptedFleet, scripted_engine
from tests.asgi import HOST, ask

pytestmark = pytest.mark.anyio

OPEN = {"/livez", "/readyz", "/healthz"}
KEY = (b"authorization", b"Bearer secret")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "FOO")
BAD_HOSTS = (
    (),
    (HOST, HOST),
    *(((b"host", value),) for value in (b"", b"a/health?", b"a#", b"a\\@b", b"evil.example")),
    ((b"host", b"localhost/livez?"),),
)

# BentoML's, in versions and settings beside those that the tests run with.
BENTOML_PATHS = {
    "/docs.json",
    "/schema.json",
    "/static_content/index.css",
    "/assets/index.js",
}

OUR_ROUTES = """
/ GET HEAD
/chat POST
/chat-sse POST
/complete POST
/docs GET HEAD
/docs/ GET HEAD
/docs/docs.css GET HEAD
/docs/docs.js GET HEAD
/docs/icon.svg GET HEAD
/embed POST
/healthz GET HEAD
/livez GET HEAD
/metrics GET HEAD
/openai/v1/chat/completions POST
/openai/v1/completions POST
/openai/v1/embeddings POST
/openai/v1/models GET HEAD
/openai/v1/models/{model:path} GET HEAD
/openapi.json GET HEAD
/pull POST
/readyz GET HEAD
/v1/chat/completions POST
/v1/completions POST
/v1/embeddings POST
/v1/models GET HEAD
/v1/models/{model:path} GET HEAD
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> ScriptedFleet:
    folder = tmp_path_factory.mktemp("guard")
    return ScriptedFleet({"demo": scripted_engine(folder, "demo")}, RequestDefaults())


@pytest.fixture(scope="module")
def settings() -> ServerSettings:
    return ServerSettings(api_key=("secret",))


@pytest.fixture(scope="module")
def served(fleet: Any, settings: ServerSettings) -> ASGIApp:
    """What `openllm start` serves: our application behind BentoML's."""
    return edge(fleet, settings)


def edge(fleet: Any, settings: ServerSettings) -> ASGIApp:
    with warnings.catch_warnings():  # BentoML's own.
        warnings.simplefilter("ignore")
        app: ASGIApp = create_service(Front(fleet, settings)).to_asgi()
    return app


@pytest.fixture(scope="module")
def bare(fleet: Any, settings: ServerSettings) -> ASGIApp:
    return Guard(build_app(fleet, settings), settings)


def paths(app: Any) -> Iterator[str]:
    """Yield a path for each route below `app`, through all mounts."""
    for route in app.routes:
        if isinstance(route, Route):
            yield route.path.replace("{model:path}", "demo")
        elif isinstance(route, Mount):
            yield route.path + "/"
            yield route.path + "/index.html"
            yield from (route.path + path for path in paths(route) if route.routes)


def spellings(path: str) -> Iterator[str]:
    """Yield other ways to write a path that a sloppy check might take for a harmless one."""
    yield path
    yield "/" + path
    yield path + "/"
    yield path.upper()
    yield path.replace("/", "%2f")
    yield "/livez/.." + path
    yield path + "/../livez"
    yield path + "?/livez"
    yield path + "\0"
    yield path.lstrip("/")


def test_the_route_table_is_as_written_here(fleet: Any, settings: ServerSettings) -> None:
    table = sorted(
        f"{route.path} {' '.join(sorted(route.methods or ()))}"
        for route in build_app(fleet, settings).routes
        if isinstance(route, Route)
    )
    assert table == OUR_ROUTES.split("\n")[1:-1]


@pytest.mark.reliability("S-01", "S-02", "S-04")
@pytest.mark.parametrize("kind", ["served", "bare"])
async def test_no_route_answers_without_a_key(kind: str, request: pytest.FixtureRequest) -> None:
    app: Any = request.getfixturevalue(kind)
    found = set(paths(app._bento if isinstance(app, OwnRoutes) else app._app))
    assert {"/v1/chat/completions", "/chat", "/docs", "/livez"} <= found | _ours(request)
    tried = 0
    for path in sorted(found | _ours(request) | BENTOML_PATHS):
        for spelling, method in itertools.product(spellings(path), METHODS):
            answer = await ask(app, spelling, method=method)
            free = spelling in OPEN and method in ("GET", "HEAD")
            assert (answer.status == 401) != free, (spelling, method, answer.status)
            tried += 1
    assert tried > 1000


@pytest.mark.reliability("S-01")
async def test_no_host_opens_a_route(served: ASGIApp, request: pytest.FixtureRequest) -> None:
    for path, host in itertools.product(sorted(_ours(request)), BAD_HOSTS):
        answer = await ask(served, path, method="POST", host=host)
        assert answer.status in (400, 401, 403), (path, host)
        assert answer.error["message"]


@pytest.mark.reliability("S-02")
async def test_a_preflight_opens_nothing(served: ASGIApp) -> None:
    asks = (b"access-control-request-method", b"POST")
    assert (await ask(served, "/chat", asks, method="OPTIONS")).status == 401
    origin = (b"origin", b"http://localhost:3000")
    assert (await ask(served, "/chat", asks, origin, method="OPTIONS")).status == 403


@pytest.mark.reliability("S-04")
async def test_odd_methods_with_a_key_are_refused_not_failed(
    served: ASGIApp, request: pytest.FixtureRequest
) -> None:
    for path, method in itertools.product(
        sorted(_ours(request)), ("FOO", "__init__", "CONNECT", "TRACE", "get", "")
    ):
        answer = await ask(served, path, KEY, method=method)
        assert answer.status == 405, (path, method)
        assert answer.error["code"] == "method_not_allowed"
        assert answer.header(b"allow")


@pytest.mark.parametrize("api_key", [(), ("secret",)])
async def test_nothing_of_bentoml_is_reached(
    fleet: Any, api_key: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    app: Any = edge(fleet, ServerSettings(api_key=api_key))
    theirs = set(paths(app._bento)) - _ours(request)
    assert {"/docs.json", "/schema.json", "/static_content/"} <= theirs
    others = {"/no-such-route", "/docs/none", "/v1/none", "/v1//models"}
    for path in sorted(theirs | BENTOML_PATHS | others):
        for method in ("GET", "POST"):
            answer = await ask(app, path, *[KEY] * bool(api_key), method=method)
            assert answer.status == 404, path
            assert answer.error["code"] == "not_found"
            assert answer.error["message"].endswith("/docs lists all routes")
            assert answer.header(b"x-request-id")


async def test_no_socket_is_served(served: ASGIApp) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {"type": "websocket", "http_version": "1.1", "path": "/", "headers": [HOST, KEY]}
    await served(scope, receive, send)
    assert sent == ["websocket.close"]


@pytest.mark.parametrize("path", ["/", "/docs/"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_way_to_the_docs(served: ASGIApp, path: str, method: str) -> None:
    assert (await ask(served, path, method=method)).status == 401
    answer = await ask(served, path, KEY, method=method)
    assert answer.status == 307
    location = (answer.header(b"location") or b"").decode()
    assert urljoin(f"http://localhost:5000{path}", location) == "http://localhost:5000/docs"
    # Below the path of a proxy as well.
    assert urljoin(f"http://localhost/proxy{path}", location) == "http://localhost/proxy/docs"


def test_bentoml_build_learns_the_routes(fleet: Any, settings: ServerSettings) -> None:
    schema = create_service(Front(fleet, settings)).schema()
    assert set(schema["paths"]) >= {line.split()[0] for line in OUR_ROUTES.strip().split("\n")}


@pytest.mark.reliability("S-12")
async def test_no_path_leads_to_another_host(served: ASGIApp, bare: ASGIApp) -> None:
    for app, path in itertools.product(
        (served, bare),
        ("//evil.com", "//evil.com/", "/\\evil.com/", "/%0d%0aSet-Cookie:x", "/a\r\nset-cookie: x"),
    ):
        answer = await ask(app, path, KEY)
        assert answer.status == 404
        assert answer.header(b"location") is None
        assert answer.header(b"set-cookie") is None
        assert not any(b"\r" in value or b"\n" in value for _, value in answer.headers)
    model = await ask(bare, "/v1/models/\r\nset-cookie: x", KEY)
    assert model.status == 404
    assert model.header(b"set-cookie") is None


@pytest.fixture
async def started(fleet: ScriptedFleet) -> AsyncIterator[None]:
    await fleet.start()
    yield
    await fleet.close()


@pytest.mark.reliability("S-33")
async def test_json_in_a_form_is_no_json(bare: ASGIApp, started: None) -> None:
    body = b'{"prompt": "hi"}'
    for path in ("/chat", "/complete", "/embed", "/chat-sse", "/v1/completions"):
        for kind in (b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data"):
            answer = await ask(bare, path, KEY, (b"content-type", kind), method="POST", body=body)
            assert answer.status == 415, (path, kind)
    good = await ask(
        bare, "/chat", KEY, (b"content-type", b"application/json"), method="POST", body=body
    )
    assert good.status == 200


def _ours(request: pytest.FixtureRequest) -> set[str]:
    fleet, settings = request.getfixturevalue("fleet"), request.getfixturevalue("settings")
    return set(paths(build_app(fleet, settings)))


def test_the_page_is_part_of_the_package() -> None:
    folder = Path(__file__).parents[2] / "src" / "openllm" / "server" / "web" / "docs"
    assert {file.name for file in folder.iterdir()} == {
        "index.html", "docs.js", "docs.css", "icon.svg",
    }  # fmt: skip
