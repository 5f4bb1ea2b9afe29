"""Settings of the server: where it listens, who may ask, and what it allows."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ServerSettings(BaseModel):
    """Everything about the HTTP server; its fields are the flags of `openllm start`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(5000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    api_key: tuple[str, ...] = Field(
        (),
        repr=False,
        description="Key that clients must send; may be repeated. Without one all may ask.",
    )
    api_key_file: Path | None = Field(
        None, description="File of keys, one a line; lines that begin with # are comments."
    )
    allowed_host: tuple[str, ...] = Field(
        (), description="Name allowed in the Host header beside the loopback's; may be repeated."
    )
    allowed_origin: tuple[str, ...] = Field(
        (), description="Web origin, such as https://app.example, allowed to call; may be repeated."
    )
    max_body_bytes: int = Field(8 << 20, ge=1024, description="Largest request body.")
    max_waiting: int = Field(
        512, ge=0, description="Requests that may wait for a model; more are refused with 429."
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
    access_log: bool = Field(False, description="Log one line for each request.")
    ssl_certfile: Path | None = Field(None, description="TLS certificate; turns HTTPS on.")
    ssl_keyfile: Path | None = Field(None, description="Private key of the certificate.")
    ssl_keyfile_password: str | None = Field(None, description="Password of the private key.")
    ssl_ca_certs: Path | None = Field(None, description="CA certificates for client certificates.")
    ssl_version: int | None = Field(None, description="TLS version, a number of Python's ssl.")
    ssl_cert_reqs: int | None = Field(
        None, ge=0, le=2, description="Client certificate: 0 none, 1 optional, 2 required."
    )
    ssl_ciphers: str | None = Field(None, description="TLS ciphers, in OpenSSL's notation.")

    @model_validator(mode="after")
    def _check(self) -> ServerSettings:
        if self.workers > 1:
            raise ValueError(
                f"workers={self.workers} is not supported: one API process serves thousands of "
                "streams, and each further one would load every model again; use 1"
            )
        if any(not key.strip() for key in self.api_key):
            raise ValueError("api_key is empty; give a key or leave the option out")
        if self.ssl_keyfile and not self.ssl_certfile:
            raise ValueError("ssl_keyfile is given without ssl_certfile; give both")
        return self

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
