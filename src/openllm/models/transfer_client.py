"""The HTTP client of a download: its limits, and the proxies and certificates of the environment.

Their variables are the HTTP library's; what it raises of wrong ones is told by their names, since a
proxy's address may hold a password.
"""

from __future__ import annotations

import os

import httpx2

from openllm._version import __version__
from openllm.config.download import DownloadOptions
from openllm.errors import ConfigurationError

CONNECT_SECONDS = 10.0

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def new_client(options: DownloadOptions) -> httpx2.Client:
    """Return a client that follows no redirects and asks for nothing compressed.

    Raises:
        ConfigurationError: The environment names a proxy or certificates that cannot be used.
    """
    limit = options.download_timeout
    try:
        return httpx2.Client(
            timeout=httpx2.Timeout(limit, connect=min(limit, CONNECT_SECONDS), pool=None),
            follow_redirects=False,
            headers={
                "user-agent": f"openllm/{__version__}",
                "accept-encoding": "identity",
                "accept": "*/*",
            },
        )
    except ImportError as error:
        raise _wrong_proxy("a SOCKS proxy, which needs a package: pip install socksio") from error
    except (ValueError, httpx2.InvalidURL) as error:
        raise _wrong_proxy("no proxy that can be used: give http://HOST:PORT") from error
    except OSError as error:
        file = error.filename or os.environ.get("SSL_CERT_FILE")
        raise ConfigurationError(
            f"TLS cannot be set up with {file}: {error.strerror or error}; correct SSL_CERT_FILE,"
            " SSL_CERT_DIR or SSLKEYLOGFILE"
        ) from error


def _wrong_proxy(what: str) -> ConfigurationError:
    names = [name for name in os.environ if name.upper() in _PROXIES]
    return ConfigurationError(
        f"{' or '.join(names)} names {what}; NO_PROXY names hosts that are reached without one"
    )
