"""How `tests.hub_server.HubServer` speaks: one handler for both of its ports."""

from __future__ import annotations

import fcntl
import gzip
import json
import re
import socket
import struct
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.hub_server import Asked, HubFile, HubServer, Repo
from tests.waiting import happens

_LISTING = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?")
_TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_CHUNK = 64 << 10
_ENDLESS = 4 << 30  # A client that takes more than this is broken enough.


class Door(ThreadingHTTPServer):
    """One of the two ports."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, hub: HubServer, name: Literal["hub", "cdn"]) -> None:
        self.hub = hub
        self.name = name
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is nothing to report."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Door
    timeout = 60

    def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server.hub
        headers = {name.lower(): value for name, value in self.headers.items()}
        with hub.lock:
            hub.requests.append(Asked(self.server.name, self.command, self.path, headers))
        split = urlsplit(self.path)
        path = unquote(split.path)
        # A revision with "/" arrives quoted, so the parts are told apart before that is undone.
        if match := _LISTING.fullmatch(split.path):
            name, revision = unquote(match[1]), unquote(match[2] or "main")
            self._listing(name, revision, "true" in parse_qs(split.query).get("blobs", []))
        elif match := _TREE.fullmatch(split.path):
            self._tree(unquote(match[1]), unquote(match[2]))
        elif match := _RESOLVE.fullmatch(split.path):
            self._resolve(*(unquote(part) for part in match.groups()))
        elif path in hub.files:
            self._download(path.rpartition("/")[2], hub.files[path], {})
        elif path == "/":
            self._reply(200, b"hub")
        else:
            self._fail(404, "NotFound")

    # Listings

    def _listing(self, name: str, revision: str, with_blobs: bool) -> None:
        hub, faults = self.server.hub, self.server.hub.faults
        repo, commit = self._opened(name, revision)
        if repo is None:
            return
        if faults.listing_status and self._counts("listing_times"):
            self._fail(faults.listing_status, "")
        elif faults.listing_stall:
            hub.closing.wait(60)
        elif faults.listing is not None:
            self._reply(200, faults.listing)
        elif faults.listing_endless:
            self._head(200, {}, None)
            self._send(_forever(b'{"id": "org/name", "siblings": [', b'{"rfilename": "x.json"},'))
        elif faults.listing_gzip_bomb:
            self._head(200, {"Content-Encoding": "gzip"}, None)
            self._send(_bomb())
        elif faults.listing_files:
            self._reply(200, _long_listing(hub.listing(name, commit, with_blobs), faults))
        else:
            self._reply(200, json.dumps(hub.listing(name, commit, with_blobs)).encode())

    def _tree(self, name: str, revision: str) -> None:
        repo, commit = self._opened(name, revision)
        if repo is not None:
            self._reply(200, json.dumps(self.server.hub.tree(name, commit)).encode())

    def _opened(self, name: str, revision: str) -> tuple[Repo | None, str]:
        """Return the repository and the commit, or (None, "") after an answer that refuses."""
        hub = self.server.hub
        repo = hub.repos.get(name)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in hub.tokens:
            self._fail(401, "", "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and not token):
            self._fail(404 if token else 401, "RepoNotFound", "Repository not found")
        elif repo.gated and not token:
            self._fail(401, "GatedRepo", f"Access to model {name} is restricted.")
        elif not (commit := repo.resolve(revision)):
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repo, commit
        return None, ""

    # Files

    def _resolve(self, name: str, revision: str, path: str) -> None:
        if self.server.name == "cdn":
            repo = self.server.hub.repos[name]
            commit = repo.resolve(revision)
        else:
            repo, commit = self._opened(name, revision)  # type: ignore[assignment]
        if repo is None:
            return
        files = repo.commits[commit]
        if path not in files:
            self._fail(404, "EntryNotFound", f"Entry not found: {path}")
            return
        file = files[path]
        about = {"X-Repo-Commit": commit}
        if file.lfs:
            about |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
        faults = self.server.hub.faults
        if self.server.name == "hub" and (faults.redirect_to or (faults.redirect and file.lfs)):
            away = faults.redirect_to or f"{self.server.hub.cdn_url}{{path}}?signature=abc"
            location = away.replace("{path}", quote(urlsplit(self.path).path))
            self._reply(302, b"", {"Location": location, **about})
            return
        sent = files[faults.swap.get(path, path)]
        self._download(path, HubFile(sent.content, file.lfs), about, etag=file.etag)

    def _download(self, name: str, file: HubFile, about: dict[str, str], etag: str = "") -> None:
        hub, faults = self.server.hub, self.server.hub.faults
        wrong = self.command == "GET" and self._counts("times", name)
        content = file.content
        etag = etag or file.etag
        if wrong and (faults.changing_etag or (faults.change_content and len(hub.requests) % 2)):
            etag = f"changed-{len(hub.requests)}"
            content = content[::-1] if faults.change_content else content
        if wrong and faults.flip is not None:
            at = faults.flip
            content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        headers = {"Accept-Ranges": "bytes", **about}
        if not faults.no_etag:
            headers["ETag"] = f'"{etag}"'
        if faults.last_modified:
            headers["Last-Modified"] = faults.last_modified
        if self.command == "HEAD" and faults.head_status:
            self._fail(faults.head_status, "")
            return
        if wrong and faults.status:
            self._fail(faults.status, "")
            return
        if wrong and faults.gzip_bomb:
            self._head(200, {**headers, "Content-Encoding": "gzip"}, None)
            self._send(_bomb(), counted=True)
            return
        part = _RANGE.fullmatch(self.headers.get("Range", ""))
        self._send_part(content, part, headers, wrong)

    def _send_part(
        self, content: bytes, part: re.Match[str] | None, headers: dict[str, str], wrong: bool
    ) -> None:
        faults = self.server.hub.faults
        total, status = len(content), 200
        if part and not (wrong and faults.ignore_range):
            first = int(part[1])
            last = min(int(part[2] or total), total - 1)
            if first >= total or (wrong and faults.refuse_range):
                self._reply(416, b"", {**headers, "Content-Range": f"bytes */{total}"})
                return
            status, content = 206, content[first : last + 1]
            said = wrong and faults.content_range
            whole = "*" if faults.no_length else total
            headers["Content-Range"] = said or f"bytes {first}-{last}/{whole}"
        length: int | None = len(content)
        if wrong and faults.content_length is not None:
            length = None if faults.content_length == "missing" else faults.content_length
        if faults.no_length or (wrong and faults.endless):
            length = None
        self._head(status, headers, length)
        if self.command == "GET":
            self._send(_pieces(content, wrong and faults.endless), wrong=wrong, counted=True)

    def _counts(self, field: str, name: str = "") -> bool:
        """Whether the faults hold for this request; one time less is left then."""
        faults = self.server.hub.faults
        if name and faults.only and faults.only != name:
            return False
        with self.server.hub.lock:
            left = getattr(faults, field)
            if left is None:
                return True
            setattr(faults, field, max(left - 1, 0))
            return bool(left > 0)

    # Sending

    def _send(self, pieces: Iterator[bytes], wrong: bool = False, counted: bool = False) -> None:
        hub, faults = self.server.hub, self.server.hub.faults
        sent, began = 0, time.monotonic()
        for piece in pieces:
            step = piece
            limits = (faults.stall_after, faults.reset_every, faults.close_after) if wrong else ()
            limit = min((each for each in limits if each is not None), default=None)
            if limit is not None:
                step = piece[: max(limit - sent, 0)]
            sent += len(step)
            if counted:  # Before the client has it: it may read the count, or reset it, at once.
                with hub.lock:
                    hub.body_bytes += len(step)
            self.wfile.write(step)
            if limit is not None and sent >= limit:
                self._break_off()
                return
            if wrong and faults.rate:
                ahead = sent / faults.rate - (time.monotonic() - began)
                hub.closing.wait(max(ahead, 0.0))
            if hub.closing.is_set():
                self.close_connection = True
                return

    def _break_off(self) -> None:
        hub = self.server.hub
        self.close_connection = True
        if hub.faults.stall_after is not None:
            hub.closing.wait(60)
        elif hub.faults.reset_every is not None:
            # Let the client have what was sent: a reset throws away what is on its way.
            with suppress(OSError):
                happens(lambda: not _on_its_way(self.connection))
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()

    def _reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self._head(status, {"Content-Type": "application/json", **(headers or {})}, len(body))
        if self.command == "GET":
            self.wfile.write(body)

    def _fail(self, status: int, code: str, text: str = "") -> None:
        faults = self.server.hub.faults
        headers = {"X-Error-Code": code, "X-Error-Message": text} if code or text else {}
        if faults.retry_after:
            headers["Retry-After"] = faults.retry_after
        if faults.challenge:
            headers["WWW-Authenticate"] = faults.challenge
        self._reply(status, json.dumps({"error": text or code}).encode(), headers)

    def _head(self, status: int, headers: dict[str, str], length: int | None) -> None:
        """Send the head; without a length, the body ends with the connection."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is None:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()


def _on_its_way(connection: socket.socket) -> int:
    """Return how many bytes the other side has not confirmed, 0 where that is not known."""
    if sys.platform != "linux":
        time.sleep(0.05)
        return 0
    return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def _pieces(content: bytes, endless: bool) -> Iterator[bytes]:
    view = memoryview(content)
    for start in range(0, len(view), _CHUNK):
        yield bytes(view[start : start + _CHUNK])
    if endless:
        yield from _forever(b"", bytes(_CHUNK))


def _forever(beginning: bytes, piece: bytes) -> Iterator[bytes]:
    yield beginning
    block = piece * max(_CHUNK // len(piece), 1)
    for _ in range(_ENDLESS // len(block)):
        yield block


def _bomb() -> Iterator[bytes]:
    """Yield gzip members of zeros: about 1,000 times as many bytes when they are unpacked."""
    member = gzip.compress(bytes(16 << 20), 6)
    for _ in range(640):
        yield member


def _long_listing(listing: dict[str, Any], faults: Any) -> bytes:
    start = json.dumps(listing).removesuffix("]}").encode()
    entry = b',{"rfilename":"f%d.json","size":1,"blobId":"' + b"0" * 40 + b'"}'
    return start + b"".join(entry % number for number in range(faults.listing_files)) + b"]}"
