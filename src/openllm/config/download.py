"""Settings of downloads: from where, with which token, how fast, and how much may be stored."""

from __future__ import annotations

import os
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from openllm.config.marks import ByModel, Size
from openllm.errors import ConfigurationError

DEFAULT_ENDPOINT = "https://huggingface.co"
MAX_ADDRESS = 8192
"""Characters of a URL; one that a storage service has signed has some 2,000."""

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+:[\x20-\x7e\t]+")
_TOKEN = re.compile(r"[\x21-\x7e]+")
_TRUE = ("1", "true", "yes", "on")
_OURS = (
    "accept-encoding", "connection", "content-length", "host", "if-range", "range", "te",
    "transfer-encoding", "upgrade",
)  # fmt: skip
"""Headers that a download itself decides on."""


def is_web_address(text: str) -> bool:
    """Whether `text` is an http or https URL that a request can be sent to."""
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        host.encode("idna")  # As it is looked up: no label is empty or too long.
        known = parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:
        return False
    return known and bool(host) and text.isprintable() and len(text) <= MAX_ADDRESS


def _url(text: str) -> str:
    if not is_web_address(text):
        raise ValueError("give an address such as https://huggingface.co")
    if "@" in urlsplit(text).netloc:
        raise ValueError(
            "give the address without a user or password, and --download-header"
            " 'Authorization: ...' instead"
        )
    return text.rstrip("/")


def _header(text: str) -> str:
    if not _HEADER.fullmatch(text):
        raise ValueError("give NAME: VALUE, as HTTP writes a header")
    if (name := text.partition(":")[0]).lower() in _OURS:
        raise ValueError(f"{name} is set by the download itself; leave it out")
    return text


def _token(text: str) -> str:
    # What HTTP cannot carry would be shown by the error of the library that refuses it.
    if not _TOKEN.fullmatch(text):
        raise ValueError("a token has neither blanks nor letters outside ASCII")
    return text


def _saved_token() -> str | None:
    """Return the token of HF_TOKEN, or else that of `hf auth login`.

    Raises:
        ConfigurationError: It is there and cannot be read.
    """
    from huggingface_hub import get_token

    try:
        return get_token()
    except NotADirectoryError:  # The home folder is none, as that of a service may be.
        return None
    except OSError as error:
        raise ConfigurationError(
            f"the saved hub token {error.filename} cannot be read: {error.strerror}; correct that,"
            " or give a token as HF_TOKEN"
        ) from None


class DownloadOptions(BaseModel):
    """How models are downloaded. A field with `repr=False` is a secret, which no message shows."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    revision: Annotated[str | None, ByModel()] = Field(
        None,
        min_length=1,
        description="Branch, tag or commit of a hub model, as ORG/NAME@REVISION names it; of all"
        " models or as MODEL:REVISION of one [default: the newest].",
    )
    offline: bool = Field(
        False,
        description="Never use the network; models must be in the store. Also HF_HUB_OFFLINE.",
    )
    hub_endpoint: Annotated[str, AfterValidator(_url)] | None = Field(
        None, description=f"Address of the model hub [default: HF_ENDPOINT, or {DEFAULT_ENDPOINT}]."
    )
    hub_token: Annotated[str, AfterValidator(_token)] | None = Field(
        None,
        repr=False,
        description="Token for gated models [default: HF_TOKEN, or that of `hf auth login`].",
    )
    download_parallel: int = Field(4, ge=1, le=32, description="Files downloaded at once.")
    download_retries: int = Field(
        10, ge=0, le=100, description="Attempts after one that brought nothing new."
    )
    download_timeout: float = Field(
        30.0, gt=0, allow_inf_nan=False, description="Seconds without a byte before a new attempt."
    )
    download_header: tuple[Annotated[str, AfterValidator(_header)], ...] = Field(
        (),
        repr=False,
        description="NAME: VALUE sent to the hub or the URL's own host; may be repeated.",
    )
    download_rate: Annotated[int | None, Size()] = Field(
        None,
        ge=1024,
        description="Most bytes a second of all downloads of one process together"
        " [default: no limit].",
    )
    store_quota: Annotated[int | None, Size()] = Field(
        None,
        ge=0,
        description="Most bytes of the store; models unused for longest make room"
        " [default: no limit].",
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = Field(
        None, description="What the model's one weights file must hash to; others are refused."
    )

    @property
    def endpoint(self) -> str:
        """The hub's address without a slash at its end.

        Raises:
            ConfigurationError: HF_ENDPOINT is none.
        """
        if self.hub_endpoint is not None:
            return self.hub_endpoint
        try:
            return _url(os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT)
        except ValueError as error:
            raise ConfigurationError(f"HF_ENDPOINT is wrong: {error}") from None

    @property
    def token(self) -> str | None:
        """The token for the hub, given or saved by its own command line; None without one.

        Raises:
            ConfigurationError: It is none that can be sent.
        """
        if self.hub_token is not None:
            return self.hub_token
        found = _saved_token()
        try:
            return _token(found) if found else None
        except ValueError as error:
            raise ConfigurationError(
                f"HF_TOKEN, or the saved hub token, is wrong: {error}"
            ) from None

    @property
    def is_offline(self) -> bool:
        return self.offline or os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE
