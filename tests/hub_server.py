"""A model hub on loopback that the real client library can talk to, and that can misbehave.

    with HubServer() as hub:
        commit = hub.add_repo("org/tiny", {"config.json": b"{}", "model.safetensors": weights})
        options = DownloadOptions(hub_endpoint=hub.url)    # or HF_ENDPOINT=hub.url
        hub.faults.reset_every = 1 << 20                   # see `Faults`
        ...
        assert hub.body_bytes <= 1.05 * len(weights)

It answers, in threads:

    GET      /api/models/{repo}[/revision/{rev}][?blobs=true]   the listing
    GET      /api/models/{repo}/tree/{rev}                      all files, as the client lists them
    GET/HEAD /{repo}/resolve/{rev}/{file}                       the file, with Range
    GET/HEAD /{path}                                            what `add_file` put there

A file that is large or ends like weights is an LFS file, as on the hub: the listing has its sha256
and `resolve` has X-Linked-Etag and X-Linked-Size. `cdn_url` is the same server on a second port, to
which `faults.redirect` sends the downloads of LFS files, as hubs do.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pytest

LFS_ENDINGS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".onnx", ".model")
LFS_BYTES = 10 << 20
MAIN = "main"


@dataclass
class Faults:
    """What goes wrong. Set a field at any time; `clear` makes everything well again.

    Those of the body and the status hold for downloads by GET, of the file `only` if that is set,
    and for the next `times` of them if that is set.
    """

    only: str = ""
    times: int | None = None

    status: int = 0
    """Answer this instead: 429, 500, 503, 416 ..."""
    retry_after: str = ""
    """Retry-After of that answer."""
    stall_after: int | None = None
    """Send nothing after so many bytes of a body, and leave the connection open."""
    reset_every: int | None = None
    """Reset the connection after so many bytes of every body."""
    close_after: int | None = None
    """End the connection in an orderly way after so many bytes, whatever was promised."""
    ignore_range: bool = False
    """Answer 200 with the whole file to a request for a part."""
    refuse_range: bool = False
    """Answer 416 to a request for a part."""
    content_range: str = ""
    """Say this Content-Range in every 206."""
    content_length: int | Literal["missing"] | None = None
    """Say this length; "missing" says none and ends the body with the connection."""
    changing_etag: bool = False
    """Another ETag in every answer."""
    change_content: bool = False
    """Other content, of the same length, behind another ETag, in every second answer."""
    endless: bool = False
    """After the content, zeros until the client has enough, without a length."""
    gzip_bomb: bool = False
    """Zeros without end as the gzip encoding of the file."""
    flip: int | None = None
    """The lowest bit of the byte at this offset is wrong."""
    swap: dict[str, str] = field(default_factory=dict)
    """Send another file of the same repository: asked for -> sent."""
    rate: int | None = None
    """Bytes a second of each connection."""

    head_status: int = 0
    """Answer this to every HEAD request for a file."""
    no_length: bool = False
    """Tell the length of no file, to HEAD and GET alike, nor with parts of it."""
    no_etag: bool = False
    """No ETag of any file."""
    last_modified: str = ""
    """Last-Modified of every file."""

    redirect: bool = False
    """Send downloads of LFS files to the second port; for these, `only` and `times` count there."""
    redirect_to: str = ""
    """Send all downloads to this URL; "{path}" in it is the path that was asked for."""
    challenge: str = ""
    """WWW-Authenticate of every answer with an error."""

    listing: bytes | None = None
    """Answer this to whoever asks for a listing."""
    listing_files: int = 0
    """So many more files in every listing."""
    listing_names: tuple[str, ...] = ()
    """Files of these names in every listing, which are not there."""
    listing_status: int = 0
    """Answer listings with this status ..."""
    listing_times: int | None = None
    """... and only so many times."""
    listing_endless: bool = False
    """A listing that never ends."""
    listing_gzip_bomb: bool = False
    """A listing that is small until it is unpacked."""
    listing_stall: bool = False
    """A listing of which nothing ever comes."""
    listing_without_hashes: bool = False
    """Neither sha256, nor git's hash, nor sizes in listings, as some mirrors do."""

    def clear(self) -> None:
        """Forget all faults."""
        self.__dict__.update(Faults().__dict__)


@dataclass(frozen=True)
class Asked:
    """A request as it arrived: on the hub's own port, or on the second one ("cdn")."""

    door: Literal["hub", "cdn"]
    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""

    @property
    def token(self) -> str:
        """The Authorization header, "" if there was none."""
        return self.headers.get("authorization", "")


@dataclass(frozen=True)
class HubFile:
    """The content of a file and what a hub says of it."""

    content: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob(self) -> str:
        """Git's hash: of an LFS file, that of the pointer that git holds for it."""
        content = self._pointer() if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob

    def _pointer(self) -> bytes:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\n"
        return f"{text}size {len(self.content)}\n".encode()


@dataclass
class Repo:
    """A repository: its commits with their files, and what its branches and tags mean."""

    commits: dict[str, dict[str, HubFile]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def resolve(self, revision: str) -> str:
        """Return the commit that a branch, tag, commit or its beginning means, or ""."""
        if revision in self.refs:
            return self.refs[revision]
        found = [commit for commit in self.commits if commit.startswith(revision)]
        return found[0] if len(found) == 1 and len(revision) >= 7 else ""


class HubServer:
    """The server; a context manager. All that it counts may be read while it works.

    Attributes:
        faults: What goes wrong.
        tokens: Tokens that open gated and private repositories.
        requests: What was asked, in order.
        body_bytes: Bytes of files that were sent, without listings and headers.
    """

    def __init__(self, repos: Mapping[str, Mapping[str, bytes] | Path] | None = None) -> None:
        """`repos`: contents by repository; see `add_repo`."""
        from tests.hub_wire import Door

        self.faults = Faults()
        self.tokens: set[str] = {"hf_good"}
        self.requests: list[Asked] = []
        self.body_bytes = 0
        self.repos: dict[str, Repo] = {}
        self.files: dict[str, HubFile] = {}
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self._doors: list[ThreadingHTTPServer] = [Door(self, "hub"), Door(self, "cdn")]
        self._threads: list[threading.Thread] = []
        for name, files in (repos or {}).items():
            self.add_repo(name, files)

    @property
    def url(self) -> str:
        """The endpoint, for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._doors[0].server_port}"

    @property
    def cdn_url(self) -> str:
        """The second host."""
        return f"http://localhost:{self._doors[1].server_port}"

    def add_repo(
        self,
        name: str,
        files: Mapping[str, bytes] | Path,
        revision: str = MAIN,
        *,
        gated: bool = False,
        private: bool = False,
    ) -> str:
        """Make a commit of these files (or of a folder's) in the repository; returns it.

        `revision` is the branch or tag that means it from now on, or the commit itself (40
        hexadecimal digits), which "main" then means.
        """
        contents = _folder(files) if isinstance(files, Path) else files
        made = {
            path: HubFile(content, _is_lfs(path, content)) for path, content in contents.items()
        }
        text = json.dumps([name, sorted((path, file.etag) for path, file in made.items())])
        commit = revision if _is_commit(revision) else hashlib.sha1(text.encode()).hexdigest()  # noqa: S324
        with self.lock:
            repo = self.repos.setdefault(name, Repo())
            repo.gated, repo.private = gated, private
            repo.commits[commit] = made
            repo.refs[MAIN if revision == commit else revision] = commit
            repo.refs.setdefault(MAIN, commit)
        return commit

    def add_file(self, path: str, content: bytes) -> str:
        """Put a file at `/path`, outside of all repositories; returns its URL."""
        self.files["/" + path.strip("/")] = HubFile(content)
        return f"{self.url}/{path.strip('/')}"

    def reset_counts(self) -> None:
        """Forget what was asked and count from 0 again."""
        with self.lock:
            self.requests.clear()
            self.body_bytes = 0

    def asked(self, part: str, method: str = "GET") -> list[Asked]:
        """Return the requests whose path has `part` in it."""
        return [each for each in self.requests if part in each.path and each.method == method]

    def tokens_seen(self, door: Literal["hub", "cdn"]) -> set[str]:
        """Return the Authorization headers that came to one of the two ports, without ""."""
        return {each.token for each in self.requests if each.door == door} - {""}

    def start(self) -> HubServer:
        """Serve until `close`."""
        for door in self._doors:
            thread = threading.Thread(target=door.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            self._threads.append(thread)
        return self

    def close(self) -> None:
        """End all; stalled connections too."""
        self.closing.set()
        for door in self._doors:
            if self._threads:
                door.shutdown()
            door.server_close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> HubServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def listing(self, name: str, commit: str, with_blobs: bool) -> dict[str, Any]:
        """Return the listing of a commit as the hub's API words it."""
        repo = self.repos[name]
        entries = [
            _entry(path, file, with_blobs) for path, file in sorted(repo.commits[commit].items())
        ]
        if self.faults.listing_without_hashes:
            entries = [{"rfilename": entry["rfilename"]} for entry in entries]
        for path in self.faults.listing_names:
            entries.append(_entry(path, HubFile(b"hostile"), with_blobs))
        return {
            "_id": "0" * 24,
            "id": name,
            "modelId": name,
            "sha": commit,
            "private": repo.private,
            "gated": "auto" if repo.gated else False,
            "tags": [],
            "siblings": entries,
        }

    def tree(self, name: str, commit: str) -> list[dict[str, Any]]:
        """Return the files of a commit, in all folders, as the hub's API words its tree."""
        files = self.repos[name].commits[commit]
        return [
            {"type": "file", "path": path, "oid": file.blob, "size": len(file.content)}
            | ({"lfs": {"oid": file.sha256, **_lfs(file)}} if file.lfs else {})
            for path, file in sorted(files.items())
        ]


def _entry(path: str, file: HubFile, with_blobs: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": path}
    if with_blobs:
        entry |= {"size": len(file.content), "blobId": file.blob}
        if file.lfs:
            entry["lfs"] = {"sha256": file.sha256, **_lfs(file)}
    return entry


def _lfs(file: HubFile) -> dict[str, int]:
    return {"size": len(file.content), "pointerSize": 135}


def _folder(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _is_lfs(path: str, content: bytes) -> bool:
    return path.endswith(LFS_ENDINGS) or len(content) >= LFS_BYTES


def _is_commit(text: str) -> bool:
    return len(text) == 40 and set(text) <= set("0123456789abcdef")


def use_hub(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a test know this hub alone, with a store and a cache of its own in `folder`."""
    monkeypatch.setenv("BENTOML_HOME", str(folder / "store"))
    monkeypatch.setenv("HF_HOME", str(folder / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
