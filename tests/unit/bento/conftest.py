from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of cert.pem and its key.pem, other.pem (another key), both.pem and locked.pem, which
    is key.pem under the password "sesame"."""
    folder = tmp_path_factory.mktemp("pems")
    for name in ("cert", "other"):
        key = "key" if name == "cert" else "other"
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "1", "-subj", "/CN=localhost"),
            *("-keyout", str(folder / f"{key}.pem"), "-out", str(folder / f"{name}-cert.pem")),
        )
    (folder / "cert-cert.pem").rename(folder / "cert.pem")
    key, locked = folder / "key.pem", folder / "locked.pem"
    _openssl("pkcs8", "-topk8", "-in", str(key), "-out", str(locked), "-passout", "pass:sesame")
    (folder / "both.pem").write_text(key.read_text() + (folder / "cert.pem").read_text())
    (folder / "text.pem").write_text("no PEM at all\n")
    lines = key.read_text().splitlines()
    (folder / "damaged.pem").write_text("\n".join([lines[0], lines[1][::-1], *lines[2:]]) + "\n")
    return folder


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
