"""What a hub, or whoever it sends the download to, must not get to see or to write."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

import pytest

from openllm.config.download import DownloadOptions
from openllm.errors import ModelFetchError, ModelNotFoundError, OpenLLMError
from openllm.models.pull import pull
from openllm.models.ref import parse_ref
from tests.hub_server import HubServer
from tests.unit.models.pulls import GGUF, TOKEN, fetch, right


@pytest.fixture(autouse=True)
def token(hub: HubServer) -> None:
    hub.tokens.add(TOKEN)


@pytest.mark.reliability("S-29")
@pytest.mark.parametrize("how", ["cdn", "stranger"])
def test_a_token_never_leaves_its_own_host(
    hub: HubServer, how: str, caplog: pytest.LogCaptureFixture, home: Path
) -> None:
    caplog.set_level(logging.INFO)
    hub.faults.redirect = how == "cdn"
    if how == "stranger":
        hub.faults.redirect_to = hub.cdn_url + "{path}"
    secrets = ("x-own: hf_other9876543210",)
    assert right(fetch(hub, hub_token=TOKEN, download_header=secrets))
    assert hub.tokens_seen("hub") == {f"Bearer {TOKEN}"}
    away = [each for each in hub.requests if each.door == "cdn"]
    assert away
    assert not any("secret" in str(each.headers) or "x-own" in each.headers for each in away)
    assert TOKEN not in caplog.text
    assert "signature" not in caplog.text
    kept = (one.read_bytes() for one in home.rglob("*") if one.is_file())
    assert not any(TOKEN.encode() in content for content in kept)


@pytest.mark.reliability("S-29")
@pytest.mark.parametrize(
    "token", ["hf_bad0123456789", "hf_secret\nx", "hf_secret\r\nHost: evil", "hf_sécret", "hf_se t"]
)
def test_no_error_shows_a_token(
    hub: HubServer, token: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub.faults.challenge = f'Bearer realm="{hub.cdn_url}/token",service="x"'
    monkeypatch.setenv("HF_TOKEN", token)
    texts = []
    for options in ({}, {"hub_token": token}):
        with pytest.raises((OpenLLMError, ValueError)) as raised:
            fetch(hub, download_retries=0, **options)
        texts.append(f"{raised.value!r} {raised.value}")
    assert not any(part in "".join(texts) + caplog.text for part in ("secret", "hf_bad", "sécret"))
    assert [each for each in hub.requests if each.door == "cdn"] == []


@pytest.mark.reliability("S-29")
def test_a_url_elsewhere_gets_no_hub_token(hub: HubServer) -> None:
    url = hub.add_file("files/x.gguf", GGUF).replace(hub.url, hub.cdn_url)
    fetch(hub, url, hub_token=TOKEN)
    assert hub.tokens_seen("cdn") == hub.tokens_seen("hub") == set()


@pytest.mark.reliability("S-28")
def test_a_hostile_listing_writes_nothing_outside(hub: HubServer, tmp_path: Path) -> None:
    hub.faults.listing_names = ("../../outside.json", "/tmp/outside.json", "x" * 300 + ".json")
    before = {one for one in tmp_path.rglob("*") if "home" not in one.parts}
    with suppress(OpenLLMError):
        fetch(hub)
    assert {one for one in tmp_path.rglob("*") if "home" not in one.parts} == before
    assert not list(tmp_path.rglob("outside*"))


@pytest.mark.reliability("S-28")
@pytest.mark.parametrize(
    "location",
    [
        "http://[",
        "http://h:99999/x",
        "http://h:port/x",
        "http://h..x/",
        f"http://{'h' * 64}.x/",
        "ftp://h/x",
        "http://h/\x01x",
        "http://h\x7f/x",
        "http://h/" + "x" * (64 << 10),
        " ",
    ],
    ids=lambda location: ascii(location)[:24],
)
def test_a_redirect_to_no_address_is_told_at_once(hub: HubServer, location: str) -> None:
    hub.faults.redirect_to = location
    with pytest.raises(ModelFetchError, match="no web address") as raised:
        fetch(hub)
    assert "org/tiny" in raised.value.message
    assert len(raised.value.message) < 300
    assert len(hub.asked("config.json")) == 1


def test_a_redirect_that_says_no_address_is_told_at_once(hub: HubServer) -> None:
    hub.faults.status = 302
    with pytest.raises(ModelFetchError, match="no web address"):
        fetch(hub)
    assert len(hub.asked("config.json")) == 1


def test_a_url_of_no_host_is_told_at_once(home: Path) -> None:
    with pytest.raises(ModelFetchError, match=r"h\.\.x/m\.gguf is no web address"):
        pull(parse_ref("http://h..x/m.gguf"), DownloadOptions(), framework=lambda *_: "pt")


def test_a_listed_file_that_is_not_there_is_no_wrong_name(hub: HubServer) -> None:
    hub.faults.listing_names = ("added_tokens.json",)
    with pytest.raises(ModelNotFoundError) as failure:
        fetch(hub)
    message = failure.value.message
    assert "/added_tokens.json is listed by its hub, which does not have it" in message
    assert "correct the name" not in message
    hub.faults.clear()
    with pytest.raises(ModelNotFoundError, match="correct the name"):
        fetch(hub, "org/none")
