"""Settings of the server: where it listens, who may ask, and what it allows."""

from __future__ import annotations

import ipaddress
import os
import stat
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from openllm.config.marks import Alias, Blanks, Size
from openllm.config.models_dir import MEANING, NAMES, checked_folder

T = TypeVar("T")


def _readable(path: Path) -> Path:
    """Find out without opening the file, which may be a pipe, that it can be read."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except OSError as error:
        raise ValueError(f"the file cannot be read: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        raise ValueError("this is a folder; give the path of a file")
    if not os.access(path, os.R_OK):
        raise ValueError("the file cannot be read: this user lacks the permission")
    return path


def _plain(path: Path) -> Path:
    """Refuse a pipe: OpenSSL opens the file by itself, and more than once."""
    if not path.is_file():
        raise ValueError("this is no plain file; write what it holds into one and give its path")
    return path


def _not_empty(key: str) -> str:
    if not key.strip():
        raise ValueError("a key is empty; give one or leave the option out")
    return key


ReadableFile = Annotated[Path, AfterValidator(_readable)]
PlainFile = Annotated[ReadableFile, AfterValidator(_plain)]
Words = Annotated[tuple[str, ...], Blanks()]


class ServerSettings(BaseModel):
    """Everything about the HTTP server; its fields are the flags of `openllm start`.

    A field with `repr=False` is a secret, whose value no message shows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(
        5000,
        ge=0,
        le=65535,
        description="Port to listen on; 0 picks a free one, and the ready line is then JSON with "
        "the keys ready (the URL), port, models and try.",
    )
    grpc: bool = Field(
        False, description="Serve gRPC instead of HTTP on this address; needs the extra grpc."
    )
    api_key: Annotated[tuple[Annotated[str, AfterValidator(_not_empty)], ...], Blanks()] = Field(
        (),
        repr=False,
        description="Key that clients must send; may be repeated. Without one all may ask.",
    )
    api_key_file: ReadableFile | None = Field(
        None, description="File of keys, one a line; lines that begin with # are comments."
    )
    allowed_host: Words = Field(
        (), description="Name allowed in the Host header beside the loopback's; may be repeated."
    )
    allowed_origin: Words = Field(
        (), description="Web origin, such as https://app.example, allowed to call; may be repeated."
    )
    max_body_bytes: Annotated[int, Size()] = Field(
        8 << 20, ge=1024, description="Largest request body."
    )
    max_waiting: int = Field(
        512, ge=0, description="Requests that may wait for a model; more are refused with 429."
    )
    load_timeout: float = Field(
        3600.0,
        gt=0,
        allow_inf_nan=False,
        description="Most seconds for loading a model; then its process is ended and it has"
        " failed.",
    )
    timeout: float = Field(
        3600.0, gt=0, allow_inf_nan=False, description="Most seconds for one request."
    )
    write_timeout: float = Field(
        30.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds a client may leave streamed output unread.",
    )
    timeout_keep_alive: int = Field(
        75, ge=1, description="Seconds an idle connection is kept open."
    )
    timeout_graceful_shutdown: int = Field(
        30, ge=0, description="Seconds that running requests get to finish at shutdown."
    )
    backlog: int = Field(2048, ge=1, description="Connections that may wait to be accepted.")
    workers: int = Field(1, ge=1, description="API processes; models live in their own processes.")
    models_dir: Annotated[
        Annotated[str, AfterValidator(checked_folder)] | None, Alias(*NAMES[1:])
    ] = Field(None, description=MEANING)
    allow_pull: bool = Field(
        False, description="Let clients download models into the store by POST /pull."
    )
    perplexity: Annotated[bool, Alias("perflexity")] = Field(
        False,
        description="Measure the perplexity of what each model generates, as metrics at /metrics; "
        "tokens then cost a little more.",
    )
    access_log: bool = Field(False, description="Log one line for each request.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line shown."
    )
    ssl_certfile: PlainFile | None = Field(
        None, description="TLS certificate with its chain, as PEM; turns HTTPS on."
    )
    ssl_keyfile: PlainFile | None = Field(
        None, description="Private key of the certificate, unless the certificate's file holds it."
    )
    ssl_keyfile_password: str | None = Field(
        None, repr=False, description="Password of the private key."
    )
    ssl_ca_certs: PlainFile | None = Field(
        None, description="CA certificates for client certificates."
    )
    ssl_version: int | None = Field(None, description="TLS version, a number of Python's ssl.")
    ssl_cert_reqs: int | None = Field(
        None, ge=0, le=2, description="Client certificate: 0 none, 1 optional, 2 required."
    )
    ssl_ciphers: str | None = Field(None, description="TLS ciphers, in OpenSSL's notation.")

    @field_validator("workers")
    @classmethod
    def _one_worker(cls, workers: int) -> int:
        if workers > 1:
            raise ValueError(
                "one API process serves thousands of streams, and each further one would load "
                "every model again; use 1"
            )
        return workers

    @field_validator(
        "ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs", "ssl_version", "ssl_cert_reqs",
        "ssl_ciphers", mode="before",
    )  # fmt: skip
    @classmethod
    def _with_certificate(cls, value: T, info: ValidationInfo) -> T:
        # A certificate file that is itself wrong is missing here and has its own message.
        if value is not None and info.data.get("ssl_certfile", "wrong") is None:
            raise ValueError("this needs --ssl-certfile, the certificate that turns HTTPS on")
        return value

    @field_validator("allowed_host", "allowed_origin", "allow_pull", "perplexity")
    @classmethod
    def _of_http(cls, value: T, info: ValidationInfo) -> T:
        if value and info.data.get("grpc"):
            raise ValueError("this means nothing with --grpc; leave one of the two out")
        return value

    @field_validator("ssl_cert_reqs")
    @classmethod
    def _with_authorities(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and info.data.get("ssl_ca_certs", "wrong") is None:
            raise ValueError("this needs --ssl-ca-certs, which says whose certificates are good")
        return value

    @property
    def keyed(self) -> bool:
        """Whether clients must send a key."""
        return bool(self.api_key or self.api_key_file)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
