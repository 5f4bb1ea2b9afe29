"""The rules for Host and Origin, header by header."""

from __future__ import annotations

import pytest

from openllm.errors import ConfigurationError
from openllm.server.hosts import HostPolicy, OriginPolicy, is_loopback, preflight_headers

LOOPBACK = HostPolicy(loopback=True, names=["box.lan"])
PUBLIC = HostPolicy(loopback=False, names=[])
PAGES = OriginPolicy(["https://app.example", "http://localhost:3000"])


def host(policy: HostPolicy, *values: bytes, version: str = "1.1") -> int:
    refusal = policy.refusal([(b"host", value) for value in values], version)
    return refusal[0] if refusal else 200


def origin(method: str, *headers: tuple[bytes, bytes]) -> int:
    refusal = PAGES.refusal([(b"host", b"127.0.0.1:5000"), *headers], method)
    return refusal[0] if refusal else 200


@pytest.mark.reliability("S-33")
@pytest.mark.parametrize(
    "value",
    [
        b"localhost",
        b"localhost:5000",
        b"LocalHost:1",
        b"127.0.0.1:5000",
        b"127.9.8.7",
        b"[::1]",
        b"[::1]:5000",
        b"box.lan",
        b"Box.Lan:80",
    ],
)
def test_loopback_answers_to_its_own_names(value: bytes) -> None:
    assert host(LOOPBACK, value) == 200


@pytest.mark.reliability("S-33")
@pytest.mark.parametrize(
    "value",
    [
        b"evil.example",
        b"localhost.evil.example",
        b"127.0.0.1.nip.io:5000",
        b"0.0.0.0:5000",
        b"10.0.0.1",
        b"[::]",
        b"[::ffff:10.0.0.1]",
        b"127.1",
        b"2130706433",
        b"sub.box.lan",
    ],
)
def test_loopback_refuses_other_names(value: bytes) -> None:
    assert host(LOOPBACK, value) == 403
    assert host(PUBLIC, value) == 200


@pytest.mark.reliability("S-01")
@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"a/health?",
        b"a#",
        b"a\\@b",
        b"user@localhost",
        b"localhost:5000/livez",
        b"localhost?x=",
        b"localhost:port",
        b"localhost:123456",
        b"localhost\r\nX: y",
        b"localhost\n",
        b"[::1",
        b"::1",
        b"\xff\xfe",
        "bücher.example".encode(),
        b"localhost, evil.example",
        b"a" * 300,
    ],
)
def test_odd_hosts_are_malformed_everywhere(value: bytes) -> None:
    assert host(LOOPBACK, value) == 400
    assert host(PUBLIC, value) == 400


@pytest.mark.reliability("S-01")
def test_there_is_exactly_one_host() -> None:
    for policy in (LOOPBACK, PUBLIC):
        assert host(policy) == 400
        assert host(policy, b"localhost", b"localhost") == 400
    assert host(LOOPBACK, version="1.0") == 400
    assert host(PUBLIC, version="1.0") == 200


def test_configured_names_restrict_any_address() -> None:
    policy = HostPolicy(loopback=False, names=["llm.example"])
    assert host(policy, b"llm.example") == 200
    assert host(policy, b"localhost:5000") == 200
    assert host(policy, b"other.example") == 403


@pytest.mark.reliability("S-33")
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "FOO", "CONNECT"])
@pytest.mark.parametrize(
    "value",
    [
        b"http://evil.example",
        b"null",
        b"",
        b"http://127.0.0.1",
        b"http://127.0.0.1:5001",
        b"http://localhost:5000",
        b"file://127.0.0.1:5000",
        b"http://127.0.0.1:5000.evil.example",
        b"http://evil.example#127.0.0.1:5000",
        b"https://app.example.evil.example",
        b"https://app.example/",
        b"\xff",
    ],
)
def test_foreign_pages_change_nothing(method: str, value: bytes) -> None:
    assert origin(method, (b"origin", value)) == 403
    assert PAGES.allowed([(b"origin", value)]) is None


def test_the_refusal_of_a_strange_origin_does_not_repeat_it() -> None:
    refusal = PAGES.refusal(
        [(b"host", b"localhost"), (b"origin", b"http://e\r\nx: <script>")], "POST"
    )
    assert refusal is not None
    assert "<script>" not in refusal[1]


@pytest.mark.parametrize(
    "value",
    [b"http://127.0.0.1:5000", b"https://127.0.0.1:5000", b"https://app.example"],
)
def test_own_and_configured_pages_may_post(value: bytes) -> None:
    assert origin("POST", (b"origin", value)) == 200


def test_default_ports_are_the_same_host() -> None:
    for page, name in ((b"https://llm.example", b"llm.example:443"), (b"http://h:80", b"h")):
        assert OriginPolicy([]).refusal([(b"host", name), (b"origin", page)], "POST") is None


@pytest.mark.reliability("S-33")
def test_reading_is_no_change_but_a_preflight_is_refused() -> None:
    foreign = (b"origin", b"http://evil.example")
    asks = (b"access-control-request-method", b"POST")
    assert origin("GET", foreign) == 200
    assert origin("HEAD", foreign) == 200
    assert origin("OPTIONS", foreign) == 200
    assert origin("OPTIONS", foreign, asks) == 403
    assert origin("OPTIONS", (b"origin", b"https://app.example"), asks) == 200


def test_several_origins_are_malformed() -> None:
    page = (b"origin", b"https://app.example")
    assert origin("POST", page, page) == 400
    assert PAGES.allowed([page, page]) is None


@pytest.mark.reliability("S-33")
def test_cross_site_without_origin_changes_nothing() -> None:
    fetch = b"sec-fetch-site"
    assert origin("POST", (fetch, b"cross-site")) == 403
    assert origin("GET", (fetch, b"cross-site")) == 200
    assert origin("POST", (fetch, b"same-origin")) == 200
    assert origin("POST") == 200
    assert origin("POST", (fetch, b"cross-site"), (b"origin", b"https://app.example")) == 200


def test_a_preflight_answer_repeats_only_header_names() -> None:
    asked = b"access-control-request-headers"
    names = dict(preflight_headers([(asked, b"authorization, x-stainless-os")]))
    assert names[b"access-control-allow-headers"] == b"authorization, x-stainless-os"
    for bad in (b"a\r\nx: y", b"", b"a, ,b", b"*/*"):
        assert b"access-control-allow-headers" not in dict(preflight_headers([(asked, bad)]))


@pytest.mark.parametrize("name", ["", "http://a", "a:80", "a/b", "a b", "bücher.example"])
def test_a_bad_host_name_is_refused_at_start(name: str) -> None:
    with pytest.raises(ConfigurationError, match="no host name") as caught:
        HostPolicy(loopback=True, names=[name])
    assert caught.value.param == "allowed_host"


@pytest.mark.parametrize("page", ["*", "null", "app.example", "https://a/", "ftp://a", ""])
def test_a_bad_origin_is_refused_at_start(page: str) -> None:
    with pytest.raises(ConfigurationError, match="no origin") as caught:
        OriginPolicy([page])
    assert caught.value.param == "allowed_origin"


def test_loopback_means_this_machine_only() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.255.0.1", "::1", "[::1]"]))
    assert not any(map(is_loopback, ["", "0.0.0.0", "::", "::ffff:127.0.0.1", "localhost.com"]))
