"""What is no model never enters the store, however right its hash is."""

from __future__ import annotations

from pathlib import Path

import pytest

from openllm.errors import ModelFileError
from openllm.models import store
from tests.hub_server import HubServer
from tests.unit.models.pulls import FILES, GGUF, WEIGHTS, fetch, right

PAGE = b"\n<!DOCTYPE html><html><body>Sign in</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (PAGE, "it is a web page"),
        (POINTER, "it is a pointer of Git LFS"),
        (b"", "it is empty"),
        (b"PK\x03\x04" + bytes(100), r"its 104 bytes begin with b'PK\\x03"),
        (b"hello there\n" + bytes(9), "its 21 bytes begin with 'hello there'"),
        (b"ggml", "its 4 bytes begin with 'ggml'"),
        (WEIGHTS, "its .* bytes begin with b'"),
    ],
)
def test_a_url_of_something_else_is_discarded(
    hub: HubServer, home: Path, content: bytes, says: str
) -> None:
    url = hub.add_file("files/x.gguf", content)
    with pytest.raises(ModelFileError, match=rf"^x\.gguf is not a GGUF file: {says}"):
        fetch(hub, url)
    assert store.stored() == ()
    assert not [one for one in home.rglob("*") if one.name == "x.gguf"]
    hub.add_file("files/x.gguf", GGUF)
    assert right(fetch(hub, url), "x.gguf")


@pytest.mark.parametrize(
    "content", [PAGE, POINTER, GGUF, b"", bytes(100), b"\x80\x02}q\x00" + bytes(99), WEIGHTS[:20]]
)
def test_a_repository_with_something_else_is_discarded(hub: HubServer, content: bytes) -> None:
    hub.add_repo("org/junk", {**FILES, "model.safetensors": content})
    with pytest.raises(ModelFileError, match=r"^model\.safetensors is not a safetensors file: "):
        fetch(hub, "org/junk")
    assert store.stored() == ()
