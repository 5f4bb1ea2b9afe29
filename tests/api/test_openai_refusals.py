"""What is refused, and how: one table for fields, one for limits, one for routes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import TEXT, Server, chat

pytestmark = pytest.mark.anyio
ERROR_FIELDS = {"message", "type", "param", "code"}


def check(reply: Any, status: int, param: str | None = None) -> dict[str, Any]:
    """Check the error contract; return the error."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"]
    body = reply.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == ERROR_FIELDS
    assert error["param"] == param
    assert error["message"]
    assert error["code"]
    for secret in ("0x", "/home", "/root", "site-packages", "Traceback", "pydantic"):
        assert secret not in error["message"]
    return error


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth - 1):
        value = {"properties": value}
    return value


def schema_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}


UNSUPPORTED: list[tuple[str, Any]] = [
    ("tools", [{"type": "function", "function": {"name": "f"}}]),
    ("tool_choice", "required"),
    ("tool_choice", "auto"),
    ("parallel_tool_calls", True),
    ("functions", [{"name": "f"}]),
    ("function_call", {"name": "f"}),
    ("audio", {"voice": "alloy", "format": "wav"}),
    ("modalities", ["text", "audio"]),
    ("prediction", {"type": "content", "content": "x"}),
    ("web_search_options", {}),
    ("store", True),
    ("service_tier", "flex"),
    ("reasoning_effort", "high"),
    ("verbosity", "low"),
    ("moderation", {"model": "m"}),
    ("prompt_cache_options", {"mode": "explicit"}),
    ("prompt_cache_retention", "24h"),
    ("suffix", "x"),
    ("best_of", 2),
    ("echo", True),
    ("chat_template", "{{ messages }}"),
    ("chat_template_kwargs", {"enable_thinking": True}),
    ("guided_json", {}),
    ("guided_regex", "a"),
    ("use_beam_search", True),
    ("min_tokens", 3),
    ("add_generation_prompt", False),
    # A bool is not the number it equals.
    ("best_of", True),
    ("store", 0),
]


@pytest.mark.spec("S3-25", "S3-26", "S3-27")
@pytest.mark.reliability("C-23")
@pytest.mark.parametrize(("name", "value"), UNSUPPORTED)
async def test_unsupported_field_of_chat(http: Any, name: str, value: Any) -> None:
    reply = await http.post("/v1/chat/completions", json=chat(**{name: value}))
    error = check(reply, 400, name)
    assert (error["type"], error["code"]) == ("invalid_request_error", "unsupported_parameter")
    assert name in error["message"]


@pytest.mark.spec("S3-26", "S3-27")
@pytest.mark.parametrize(
    ("name", "value"),
    [("suffix", "x"), ("best_of", 2), ("tools", [{}]), ("prompt_embeds", "AA=="), ("echo", True)],
)
async def test_unsupported_field_of_completions(http: Any, name: str, value: Any) -> None:
    body = {"prompt": "hi", name: value, **({"logprobs": 1} if name == "echo" else {})}
    error = check(await http.post("/v1/completions", json=body), 400, name)
    assert name in error["message"]


@pytest.mark.reliability("S-17")
@pytest.mark.parametrize(
    ("name", "fits", "too_much"),
    [
        ("n", 16, 17),
        ("stop", ["x" * 256] * 16, ["x"] * 17),
        ("stop", "x" * 256, "x" * 257),
        ("stop", ["x"], ["x" * 257]),
        ("logit_bias", {str(i): 1 for i in range(200)}, {str(i): 1 for i in range(1025)}),
        ("logit_bias", {"5": 100}, {"5": 101}),
        ("logit_bias", {"5": -100}, {"5": -101}),
        ("top_logprobs", 20, 21),
        ("best_of", 1, 2),
        ("temperature", 2, 2.001),
        ("temperature", 0, -0.001),
        ("top_p", 1, 1.001),
        ("top_p", 0.001, 0),
        ("min_p", 1, 1.1),
        ("presence_penalty", 2, 2.1),
        ("presence_penalty", -2, -2.1),
        ("frequency_penalty", 2, 2.1),
        ("repetition_penalty", 2, 2.1),
        ("repetition_penalty", 0.1, 0),
        ("max_tokens", 2**31 - 1, 2**31),
        ("max_tokens", 1, 0),
        ("max_tokens", None, -1),
        ("max_completion_tokens", 1, 0),
        ("seed", 2**63 - 1, 2**63),
        ("seed", -(2**63), -(2**63) - 1),
        ("top_k", -1, -2),
        (
            "messages",
            [{"role": "user", "content": ""}] * 16,
            [{"role": "user", "content": ""}] * 4097,
        ),
        ("user", "x" * 512, "x" * 513),
        ("metadata", {str(i): "x" for i in range(16)}, {str(i): "x" for i in range(17)}),
    ],
)
async def test_limit_and_one_more(http: Any, name: str, fits: Any, too_much: Any) -> None:
    extra = {"logprobs": True} if name == "top_logprobs" else {}
    reply = await http.post(
        "/v1/chat/completions",
        json=chat(**extra, **{name: fits}) if name != "messages" else {"messages": fits},
    )
    assert reply.status_code == 200, reply.text
    body = chat(**extra)
    reply = await http.post("/v1/chat/completions", json={**body, name: too_much})
    assert reply.status_code == 400
    param = reply.json()["error"]["param"]
    assert param.partition(".")[0].partition("[")[0] == name
    assert name in reply.json()["error"]["message"]


@pytest.mark.reliability("S-17")
@pytest.mark.parametrize(
    ("form", "param"),
    [
        (schema_format({"a": "x" * 65_500}), "response_format"),
        (schema_format({"a": "x" * 65_536}), "response_format.json_schema.schema"),
        (schema_format(nested(32)), "response_format"),
        (schema_format(nested(33)), "response_format.json_schema.schema"),
        (schema_format({}), "response_format"),
        ({"type": "json_object"}, "response_format"),
        ({"type": "json_schema"}, "response_format"),
        ({"type": "text", "json_schema": {"name": "s"}}, "response_format.json_schema"),
        ({"type": "yaml"}, "response_format.type"),
        ("json", "response_format"),
    ],
)
async def test_response_format(http: Any, form: Any, param: str) -> None:
    """The scripted engine cannot constrain text, so what fits is refused for that."""
    reply = await http.post("/v1/chat/completions", json=chat(response_format=form))
    error = check(reply, 400, param)
    fits = param == "response_format" and isinstance(form, dict) and form != {"type": "json_schema"}
    assert (error["code"] == "unsupported_parameter") == fits


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"temprature": 1}, "temprature", "did you mean temperature?"),
        ({"max_token": 1}, "max_token", "did you mean max_tokens?"),
        ({"zzz": 1}, "zzz", "leave it out"),
        ({"x" * 5000: 1}, "x" * 64 + "...", "leave it out"),
        ({"a\nb\u202e": 1}, "a\nb\\u202e", "leave it out"),
        ({"temperature": "0.5"}, "temperature", 'must be a number, got "0.5"'),
        ({"temperature": True}, "temperature", "must be a number, got true"),
        ({"n": 1.0}, "n", "must be an integer, got 1.0"),
        ({"n": "1"}, "n", 'must be an integer, got "1"'),
        ({"stream": "yes"}, "stream", "must be true or false"),
        ({"stop": 5}, "stop", "must be a string or an array of strings, got 5"),
        ({"stop": ""}, "stop", "stop must not be empty"),
        ({"stop": ["a", ""]}, "stop[1]", "must not be empty"),
        ({"stop": {"a": 1}}, "stop", "got an object"),
        ({"messages": []}, "messages", "must not be empty"),
        ({"messages": "hi"}, "messages", 'must be an array, got "hi"'),
        ({"messages": [5]}, "messages[0]", "must be an object, got 5"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "must be a string"),
        ({"messages": [{"content": "a"}]}, "messages[0].role", "is required"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role", 'got "tool"'),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "must be"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "not be empty"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "a"},
                            {"type": "image_url", "image_url": {"url": "x"}},
                        ],
                    }
                ]
            },
            "messages[0].content[1].type",
            'must be "text", got "image_url"',
        ),
        (
            {"messages": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]},
            "messages[0].tool_calls",
            "not supported",
        ),
        ({"messages": [{"role": "user", "content": "a", "x": 1}]}, "messages[0].x", "known"),
        ({"logit_bias": {"hi": 1}}, "logit_bias", 'token ids as keys, got "hi"'),
        ({"logit_bias": {"5": "a"}}, "logit_bias.5", "must be a number"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "99999"),
        ({"top_logprobs": 1}, "top_logprobs", "logprobs is true"),
        ({"logprobs": 3}, "logprobs", "must be true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream is true"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "known field"),
        ({"model": "x" * 257}, "model", "at most 256 characters, got 257"),
        ({"model": 5}, "model", "must be a string"),
        ({"seed": 1.5}, "seed", "must be an integer"),
        ({"stop_token_ids": [99999]}, "stop_token_ids", "99999"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]", "at least 0"),
        ({"ignore_eos": 1}, "ignore_eos", "true or false"),
        ({"grammar": "root ::= x"}, "grammar", "not supported"),
    ],
)
async def test_faulty_field(http: Any, fields: dict[str, Any], param: str, says: str) -> None:
    reply = await http.post("/v1/chat/completions", json={**chat(), **fields})
    error = check(reply, 400, param)
    assert says in error["message"]
    assert len(error["message"]) < 300


@pytest.mark.reliability("C-20")
@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ("", "prompt"),
        ([], "prompt"),
        ([""], "prompt[0]"),
        ([[]], "prompt[0]"),
        ([-1], "prompt[0]"),
        ([2**31], "prompt[0]"),
        ([1, "a"], "prompt[1]"),
        (["a", 1], "prompt[1]"),
        ([[1], "a"], "prompt[1]"),
        ([True], "prompt[0]"),
        ([1.5], "prompt[0]"),
        (["a"] * 257, "prompt"),
        (None, "prompt"),
        (5, "prompt"),
        ({"a": 1}, "prompt"),
    ],
)
async def test_faulty_prompt(http: Any, prompt: Any, param: str) -> None:
    check(await http.post("/v1/completions", json={"prompt": prompt}), 400, param)


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("/v1/chat/completions", "messages", []),
        ("/v1/completions", "prompt", ""),
        ("/v1/completions", "prompt", []),
        ("/v1/embeddings", "input", ""),
        ("/v1/embeddings", "input", []),
        ("/chat", "prompt", ""),
        ("/chat", "messages", []),
        ("/complete", "prompt", ""),
        ("/embed", "input", []),
    ],
)
async def test_what_is_empty_is_called_so(http: Any, path: str, name: str, value: Any) -> None:
    reply = await http.post(path, json=value if path == "/embed" else {name: value})
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert error["message"] == f"{error['param']} must not be empty"


@pytest.mark.reliability("S-03")
async def test_query_parameters_change_nothing(http: Any) -> None:
    query = "?model=nope&stream=true&temperature=9&bypass_filter=true&n=99"
    reply = await http.post(f"/v1/chat/completions{query}", json=chat())
    assert reply.json()["choices"][0]["message"]["content"] == TEXT
    assert len(reply.json()["choices"]) == 1


ROUTES = [
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/healthz"),
    *(
        (method, prefix + path)
        for prefix in ("/v1", "/openai/v1")
        for method, path in (
            ("GET", "/models"),
            ("GET", "/models/demo"),
            ("POST", "/chat/completions"),
            ("POST", "/completions"),
            ("POST", "/embeddings"),
        )
    ),
]


@pytest.mark.reliability("S-04")
@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("other", ["FOO", "__init__", "DELETE", "PUT", "PATCH", "TRACE", "OPTIONS"])
async def test_other_methods(http: Any, method: str, path: str, other: str) -> None:
    reply = await http.request(other, path)
    assert reply.status_code in (400, 405)
    if reply.status_code == 405:
        check(reply, 405)
        assert method in reply.headers["allow"]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_get_and_post_are_not_mixed_up(http: Any, method: str, path: str) -> None:
    other = "POST" if method == "GET" else "GET"
    check(await http.request(other, path), 405)
    if method == "GET":
        head = await http.head(path)
        assert head.status_code == 200
        assert head.content == b""
        assert int(head.headers["content-length"]) == len((await http.get(path)).content)


@pytest.mark.reliability("S-12")
@pytest.mark.parametrize(
    "path",
    [
        "/v1",
        "/v1/nope",
        "/v2/models",
        "/v1/models/",
        "/v1/chat/completions/",
        "//evil.com",
        "//evil.com/v1/models/",
        "/\\evil.com",
        "/%5cevil.com/",
        "/v1/models/%0d%0aSet-Cookie:%20a=b",
        "/%0d%0aSet-Cookie:%20a=b",
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/v1/models/%ff%fe",
        "/V1/models",
        "/v1//models",
    ],
)
async def test_unknown_path(server: Server, path: str) -> None:
    async with server.http() as http:
        reply = await http.get(server.url + path)
    param = "model" if path.startswith("/v1/models/") and path[11:13] in ("..", "%f") else None
    error = check(reply, 404, param)
    assert error["type"] == "not_found_error"
    assert "location" not in reply.headers
    assert "set-cookie" not in reply.headers


async def test_probes(http: Any) -> None:
    assert (await http.get("/livez")).json() == {"status": "alive"}
    assert (await http.get("/healthz")).json() == {"status": "alive"}
    reply = (await http.get("/readyz")).json()
    assert reply["status"] == "ready"
    assert {"name": "demo", "state": "ready"} in reply["models"]
