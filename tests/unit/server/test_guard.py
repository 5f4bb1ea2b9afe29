"""The guard around small applications: admission, request ids, and one shape of error."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openllm.config.server import ServerSettings
from openllm.errors import ConfigurationError
from openllm.server.guard import Guard
from tests.asgi import HOST, Answer, ask

pytestmark = pytest.mark.anyio


def guarded(app: ASGIApp, **settings: Any) -> Guard:
    return Guard(app, ServerSettings(**settings))


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(f"hello {scope['state']['request_id']}")(scope, receive, send)


def answers(response: Response) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await response(scope, receive, send)

    return app


# --- keys ---------------------------------------------------------------------------------------


async def test_without_keys_loopback_is_open() -> None:
    answer = await ask(guarded(hello))
    assert answer.status == 200


@pytest.mark.reliability("S-02", "S-35")
async def test_every_refusal_for_want_of_a_key_is_the_same() -> None:
    guard = guarded(hello, api_key=("secret",))
    wrong: list[list[tuple[bytes, bytes]]] = [
        [],
        [(b"authorization", b"Bearer nope")],
        [(b"authorization", b"Bearer \xff\x00")],
        [(b"authorization", b"bearer secret")],
        [(b"authorization", b"Bearer\tsecret")],
        [(b"authorization", b"Bearer " + b"x" * 8192)],
        [(b"authorization", b"Bearer secret"), (b"authorization", b"Bearer secret")],
    ]
    bodies = set()
    for headers in wrong:
        answer = await ask(guard, "/v1/models", *headers)
        assert answer.status == 401
        assert answer.header(b"www-authenticate") == b"Bearer"
        assert answer.error["code"] == "invalid_api_key"
        bodies.add(answer.body)
    assert len(bodies) == 1
    good = await ask(guard, "/v1/models", (b"authorization", b"Bearer secret"))
    assert good.status == 200


async def test_the_refusal_names_every_accepted_way() -> None:
    guard = guarded(hello, api_key=("secret",))
    message = (await ask(guard, "/v1/models")).error["message"]
    for name, value in (("Authorization", "Bearer KEY"), ("x-api-key", "KEY")):
        assert f"{name}: {value}" in message
        header = (name.lower().encode(), value.replace("KEY", "secret").encode())
        assert (await ask(guard, "/v1/models", header)).status == 200
    for source in ("--api-key", "--api-key-file", "OPEN_LLM_API_KEY"):
        assert source in message


@pytest.mark.reliability("S-02")
async def test_only_three_paths_need_no_key() -> None:
    guard = guarded(hello, api_key=("secret",))
    for path in ("/livez", "/readyz", "/healthz"):
        assert (await ask(guard, path)).status == 200
        assert (await ask(guard, path, method="HEAD")).status == 200
        assert (await ask(guard, path, method="POST")).status == 401
        for odd in (path + "/", "/" + path, path.upper(), path + "/x", path + "?", path + "#"):
            assert (await ask(guard, odd)).status == 401, odd
        for odd in ("/x/.." + path, "/v1" + path, path + "\0", path + ";", path + " ", path[1:]):
            assert (await ask(guard, odd)).status == 401, odd


@pytest.mark.reliability("S-02")
async def test_a_websocket_needs_a_key_and_no_foreign_page() -> None:
    reached = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["path"])

    guard = guarded(app, api_key=("secret",))
    key = (b"authorization", b"Bearer secret")
    for path, headers, admitted in (
        ("/livez", [HOST], False),
        ("/", [HOST], False),
        ("/", [HOST, key, (b"origin", b"http://evil.example")], False),
        ("/", [(b"host", b"evil.example"), key], False),
        ("/", [HOST, key], True),
    ):
        reached.clear()
        sent: list[Message] = []
        await guard(
            {"type": "websocket", "http_version": "1.1", "path": path, "headers": headers},
            _connect,
            _append_to(sent),
        )
        assert bool(reached) == admitted
        assert sent == ([] if admitted else [{"type": "websocket.close", "code": 1008}])


async def test_an_unknown_protocol_is_not_served_and_lifespan_passes() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    guard = guarded(app, api_key=("secret",))
    await guard({"type": "lifespan"}, _connect, _append_to([]))
    with pytest.raises(RuntimeError, match="not served"):
        await guard({"type": "quic", "headers": []}, _connect, _append_to([]))
    assert seen == ["lifespan"]


def test_unusable_settings_fail_before_anything_is_served(tmp_path: Path) -> None:
    keyless = tmp_path / "keys"
    keyless.write_text("# none\n")
    for bad in (
        {"api_key_file": keyless},
        {"api_key": ("two words",)},
        {"allowed_origin": ("*",)},
        {"allowed_host": ("a/b",)},
    ):
        with pytest.raises(ConfigurationError):
            guarded(hello, **bad)


# --- browsers -----------------------------------------------------------------------------------


@pytest.mark.reliability("S-33")
async def test_a_rebound_name_is_refused_on_loopback() -> None:
    answer = await ask(guarded(hello), host=[(b"host", b"evil.example")])
    assert answer.status == 403
    assert answer.error["type"] == "permission_error"
    for host in ([], [HOST, HOST], [(b"host", b"a/health?")]):
        assert (await ask(guarded(hello), "/livez", host=host)).status == 400


async def test_elsewhere_any_host_is_answered_but_pages_obey_the_same_rule() -> None:
    guard = guarded(hello, host="0.0.0.0")
    host = [(b"host", b"llm.example:5000")]
    assert (await ask(guard, host=host)).status == 200
    for origin, status in ((b"http://llm.example:5000", 200), (b"http://evil.example", 403)):
        answer = await ask(guard, "/chat", (b"origin", origin), method="POST", host=host)
        assert answer.status == status
    assert (await ask(guard, host=[(b"host", b"a?b")])).status == 400
    named = guarded(hello, host="0.0.0.0", allowed_host=("llm.example",))
    assert (await ask(named, host=host)).status == 200
    assert (await ask(named, host=[(b"host", b"other.example")])).status == 403


@pytest.mark.reliability("S-33")
async def test_a_foreign_page_gets_no_leave() -> None:
    guard = guarded(hello)
    origin = (b"origin", b"http://evil.example")
    private = (b"access-control-request-private-network", b"true")
    wants = (b"access-control-request-method", b"POST")
    for answer in (
        await ask(guard, "/chat", origin, method="POST"),
        await ask(guard, "/chat", origin, wants, private, method="OPTIONS"),
        await ask(guard, "/chat", (b"sec-fetch-site", b"cross-site"), method="POST"),
    ):
        assert answer.status == 403
        assert answer.error["code"] == "forbidden"
        assert not _cors(answer)
    reading = await ask(guard, "/", origin)
    assert reading.status == 200
    assert not _cors(reading)


@pytest.mark.reliability("S-33")
async def test_a_configured_page_gets_leave_but_no_key() -> None:
    page = b"https://app.example"
    guard = guarded(hello, allowed_origin=(page.decode(),), api_key=("secret",))
    preflight = await ask(
        guard,
        "/chat",
        (b"origin", page),
        (b"access-control-request-method", b"POST"),
        (b"access-control-request-headers", b"authorization,content-type"),
        (b"access-control-request-private-network", b"true"),
        method="OPTIONS",
    )
    assert preflight.status == 204
    assert preflight.body == b""
    assert preflight.header(b"access-control-allow-origin") == page
    assert preflight.header(b"access-control-allow-headers") == b"authorization,content-type"
    assert b"POST" in (preflight.header(b"access-control-allow-methods") or b"")
    assert preflight.header(b"access-control-allow-private-network") is None
    assert preflight.header(b"access-control-allow-credentials") is None
    refused = await ask(guard, "/chat", (b"origin", page), method="POST")
    assert refused.status == 401
    assert refused.header(b"access-control-allow-origin") == page
    key = (b"authorization", b"Bearer secret")
    good = await ask(guard, "/chat", (b"origin", page), key, method="POST")
    assert good.status == 200
    assert good.header(b"access-control-allow-origin") == page
    assert good.header(b"vary") == b"origin"


@pytest.mark.reliability("S-33")
async def test_only_the_guard_speaks_of_origins() -> None:
    inner = PlainTextResponse(
        "x",
        headers={
            "Access-Control-Allow-Origin": "*",
            "Access-Control-Allow-Private-Network": "true",
            "X-Request-ID": "inner",
        },
    )
    answer = await ask(guarded(answers(inner)), "/", (b"origin", b"http://evil.example"))
    assert not _cors(answer)
    assert answer.header(b"x-request-id") != b"inner"


# --- request ids --------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [b"abc-1.2_3", b"a" * 128])
async def test_a_harmless_request_id_is_kept(given: bytes) -> None:
    answer = await ask(guarded(hello), "/", (b"x-request-id", given))
    assert answer.header(b"x-request-id") == given
    assert answer.body == b"hello " + given


@pytest.mark.reliability("S-12")
@pytest.mark.parametrize(
    "given",
    [b"", b"a" * 129, b"a b", b"a\r\nset-cookie: x", b"a\n", b"a%0d%0a", b"\x1b[31m", b"\xff"],
)
async def test_any_other_is_replaced(given: bytes) -> None:
    for answer in (
        await ask(guarded(hello), "/", (b"x-request-id", given)),
        await ask(guarded(hello, api_key=("k",)), "/", (b"x-request-id", given)),
    ):
        made = answer.header(b"x-request-id")
        assert made is not None
        assert made.startswith(b"req_")
        assert made.decode().replace("_", "").isalnum()


async def test_two_request_ids_are_none() -> None:
    answer = await ask(guarded(hello), "/", (b"x-request-id", b"a"), (b"x-request-id", b"a"))
    assert answer.header(b"x-request-id") != b"a"


# --- errors -------------------------------------------------------------------------------------


def routed() -> Starlette:
    async def get(_: Any) -> Response:
        return PlainTextResponse("got")

    return Starlette(routes=[Route("/got", get, methods=["GET"])])


@pytest.mark.reliability("S-12")
async def test_starlettes_own_errors_get_our_shape() -> None:
    guard = guarded(routed())
    missing = await ask(guard, '/no\r\nsuch"path')
    assert missing.status == 404
    assert "no route" in missing.error["message"]
    wrong = await ask(guard, "/got", method="POST")
    assert wrong.status == 405
    assert wrong.header(b"allow") is not None
    assert wrong.error["code"] == "method_not_allowed"
    for answer in (missing, wrong):
        assert answer.header(b"content-length") == b"%d" % len(answer.body)


@pytest.mark.reliability("S-04")
@pytest.mark.parametrize("method", ["FOO", "__init__", "CONNECT", "TRACE", ""])
async def test_odd_methods_are_not_allowed(method: str) -> None:
    assert (await ask(guarded(routed()), "/got", method=method)).status == 405


async def test_a_path_that_is_no_unicode_is_answered() -> None:
    assert (await ask(guarded(routed()), "/\udcff")).error["code"] == "not_found"


@pytest.mark.parametrize(
    ("inner", "status"),
    [
        (JSONResponse({"error": "process is overloaded"}, 503), 503),
        (JSONResponse({"error": "Too many requests"}, 429), 429),
        (JSONResponse({"detail": [{"loc": "/home/user"}]}, 422), 400),
        (JSONResponse({"error": {"message": "m"}}, 404), 404),
        (JSONResponse(["error"], 418), 418),
        (PlainTextResponse("Internal Server Error /home/user", 500), 500),
        (PlainTextResponse("", 599), 599),
        (PlainTextResponse("x" * 200_000, 400), 400),
        (Response(b"\xff\xfe", 403, media_type="application/json"), 403),
    ],
)
async def test_foreign_errors_get_our_shape(inner: Response, status: int) -> None:
    inner.headers["x-extra"] = "kept"
    answer = await ask(guarded(answers(inner)))
    assert answer.status == status
    assert answer.error["message"]
    assert "/home" not in answer.body.decode()
    assert answer.header(b"x-extra") == b"kept"
    assert (answer.header(b"retry-after") is not None) == (status in (429, 503))


async def test_our_own_errors_pass_as_they_are() -> None:
    body = b'{"error": {"message":"m","type":"t","param":"p","code":"c"}}'
    inner = Response(body, 429, {"retry-after": "7"}, media_type="application/json")
    answer = await ask(guarded(answers(inner)))
    assert answer.body == body
    assert answer.header(b"retry-after") == b"7"
    unknown = await ask(guarded(answers(Response(body, 422, media_type="application/json"))))
    assert (unknown.status, unknown.body) == (400, body)


async def test_an_error_in_pieces_is_put_together() -> None:
    async def pieces() -> Any:
        for piece in (b'{"error": {"message":"m","type":"t",', b'"param":null,"code":"c"}}'):
            yield piece

    response = StreamingResponse(pieces(), 400, media_type="application/json")
    assert (await ask(guarded(answers(response)))).error["message"] == "m"


async def test_head_errors_have_no_body() -> None:
    answer = await ask(guarded(routed()), "/none", method="HEAD")
    assert (answer.status, answer.body) == (404, b"")
    assert int(answer.header(b"content-length") or 0) > 0


async def test_an_exception_is_logged_once_and_tells_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(_: Any) -> Response:
        raise KeyError("secret path /home/user")

    for app in (Starlette(routes=[Route("/", broken)]), _raises):
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            answer = await ask(guarded(app), "/", (b"x-request-id", b"abc"))
        assert answer.status == 500
        assert answer.error["code"] == "internal_error"
        assert "secret" not in answer.body.decode()
        [record] = caplog.records
        assert record.exc_info is not None
        assert "abc" in record.getMessage()


async def test_an_application_that_says_nothing_is_a_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    assert (await ask(guarded(silent))).status == 500
    assert "without a response" in caplog.text


async def test_a_cancelled_request_says_why() -> None:
    async def cancelled(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    sent: list[Message] = []
    guard = guarded(cancelled)
    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/", "headers": [HOST]}
    with pytest.raises(asyncio.CancelledError):
        await guard(scope, _connect, _append_to(sent))
    assert Answer(sent).status == 503
    assert Answer(sent).error["code"] == "unavailable"


async def test_chunks_of_a_good_answer_pass_untouched() -> None:
    sent: list[Message] = []
    chunks: list[Message] = [
        {"type": "http.response.body", "body": b"%d" % index, "more_body": index < 9}
        for index in range(10)
    ]

    async def streams(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for chunk in chunks:
            await send(chunk)

    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/", "headers": [HOST]}
    await guarded(streams)(scope, _connect, _append_to(sent))
    assert all(got is made for got, made in zip(sent[1:], chunks, strict=True))


# --- access log ---------------------------------------------------------------------------------


@pytest.mark.reliability("S-36")
async def test_one_request_is_one_line_of_json(caplog: pytest.LogCaptureFixture) -> None:
    guard = guarded(hello, access_log=True, api_key=("canary-key",))
    path = "/a\r\nforged \x1b[2J\u2028\u0085\x7f\u202e" + "x" * 5000
    with caplog.at_level(logging.INFO, "openllm.access"):
        await ask(guard, path, (b"x-request-id", b"a\nb"), (b"user-agent", b"\r\nforged"))
        await ask(guard, "/fine", (b"authorization", b"Bearer canary-key"), method="POST")
    lines = [record.getMessage() for record in caplog.records if record.name == "openllm.access"]
    assert len(lines) == 2
    for line in lines:
        assert line.isascii()
        assert line.isprintable()
        assert "canary" not in line
        assert len(line) < 8000
    refused, fine = map(json.loads, lines)
    assert refused["status"] == 401
    assert refused["path"].startswith("/a\r\nforged")
    assert (fine["method"], fine["path"], fine["status"]) == ("POST", "/fine", 200)
    assert fine["duration_ms"] >= 0
    assert fine["request_id"].startswith("req_")


async def test_a_client_that_left_is_logged_as_499(caplog: pytest.LogCaptureFixture) -> None:
    async def watches(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.disconnect"

    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/", "headers": [HOST]}
    with caplog.at_level(logging.INFO):
        await guarded(watches, access_log=True)(scope, _leave, _append_to([]))
    [record] = caplog.records
    assert json.loads(record.getMessage())["status"] == 499


async def test_the_access_log_can_be_off(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await ask(guarded(hello, access_log=False))
    assert not caplog.records


def _cors(answer: Answer) -> list[bytes]:
    return [name for name, _ in answer.headers if name.lower().startswith(b"access-control-")]


async def _connect() -> Message:
    return {"type": "websocket.connect"}


async def _leave() -> Message:
    return {"type": "http.disconnect"}


async def _raises(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError("secret")


def _append_to(sent: list[Message]) -> Callable[[Message], Any]:
    async def send(message: Message) -> None:
        sent.append(message)

    return send
