"""What a hub, or a URL, offers: one listing with the sizes and hashes of a model's files.

The hub's addresses, headers and token are huggingface_hub's; the listing is read here, because it
comes from a stranger and must stay within bounds.
"""

from __future__ import annotations

import re
import shlex
import threading
from urllib.parse import quote

import msgspec

from openllm.config.download import DownloadOptions
from openllm.errors import ConfigurationError, ModelFetchError
from openllm.models.ref import MAIN, ModelRef, shown_source
from openllm.models.transfer_http import Session, measure
from openllm.models.transfer_stop import stoppable

MAX_LISTING = 32 << 20
MAX_FILES = 50_000
MAX_NAME = 1024
MAX_PART = 255
"""Bytes that a file system gives to a file's name."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class RemoteFile(msgspec.Struct, frozen=True):
    """One file to download.

    Attributes:
        name: Its path below the model's folder, with "/".
        size: Bytes; -1 where the server does not say.
        url: Where it is.
        sha256: Hash of its content, "" if unknown.
        blob: Git's hash of it, "" if unknown.
        called: What the server called this content, for a URL.
        pinned: Whether a commit is part of the address, which then has one content for ever.
    """

    name: str
    size: int
    url: str
    sha256: str = ""
    blob: str = ""
    called: str = ""
    pinned: bool = False

    @property
    def lasting(self) -> bool:
        """Whether what an earlier download has left, or has completed, is a part of this."""
        return self.pinned or bool(self.sha256)

    @property
    def is_gguf(self) -> bool:
        return self.name.lower().endswith(".gguf")


class RemoteModel(msgspec.Struct, frozen=True):
    """A model that can be downloaded: where it is from, its commit ("" for a URL), its files."""

    source: str
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def shown(self) -> str:
        """Its source for people, without what may be secret."""
        return shown_source(self.source)

    def home(self, options: DownloadOptions) -> str:
        """Return the address of the server that the token and the user's headers are for."""
        return options.endpoint if self.commit else self.source


class _Lfs(msgspec.Struct):
    sha256: str = ""
    oid: str = ""


class _Sibling(msgspec.Struct):
    rfilename: str
    size: int | None = None
    blobId: str | None = None
    lfs: _Lfs | None = None


class _Listing(msgspec.Struct):
    sha: str
    siblings: list[_Sibling]


def inspect(
    ref: ModelRef, options: DownloadOptions, cancelled: threading.Event | None = None
) -> RemoteModel:
    """Ask the hub, or the URL's server, what `ref` is.

    Args:
        ref: A hub id or a URL.
        options: Where from and how.
        cancelled: When set, this raises within a second.

    Raises:
        ConfigurationError: `ref` is not a hub id or a URL, or the network must not be used.
        ModelNotFoundError: There is no such model, revision or file.
        ModelFetchError: The server cannot be reached, refuses, or answers nonsense.
    """
    if ref.kind not in ("hub", "url"):
        raise ConfigurationError(f"{ref} is not on a hub; give org/name or the URL of a GGUF file.")
    if options.is_offline:
        shown = shown_source(ref.source)
        raise ConfigurationError(
            f"{shown} is not in the store, and the network must not be used (--offline or"
            f" HF_HUB_OFFLINE); allow it once with: openllm pull {shlex.quote(shown)}",
            param="offline",
        )
    ask = _repository if ref.kind == "hub" else _single
    with Session(options, options.endpoint if ref.kind == "hub" else ref.source) as session:
        return stoppable(lambda: ask(ref, session), session.halt, cancelled)


def _repository(ref: ModelRef, session: Session) -> RemoteModel:
    revision = quote(ref.revision or MAIN, safe="")
    url = f"{session.endpoint}/api/models/{ref.repo}/revision/{revision}?blobs=true"
    try:
        listing = msgspec.json.decode(session.read(url, MAX_LISTING), type=_Listing)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelFetchError(
            f"{session.host} answered with no listing of {ref.repo} ({error});"
            " check --hub-endpoint, or try again later"
        ) from error
    if not _COMMIT.fullmatch(listing.sha):
        raise ModelFetchError(f"{session.host} named no commit of {ref.repo}; try again later")
    if len(listing.siblings) > MAX_FILES:
        raise ModelFetchError(
            f"{ref.repo} lists {len(listing.siblings)} files; at most {MAX_FILES} are taken"
        )
    files = {one.rfilename: _file(one, ref, listing.sha, session) for one in listing.siblings}
    return RemoteModel(ref.repo, listing.sha, tuple(filter(None, files.values())))


def _file(one: _Sibling, ref: ModelRef, commit: str, session: Session) -> RemoteFile | None:
    """Return a file of the listing; None for a name that could lead out of the model's folder."""
    parts = one.rfilename.split("/")
    plain = one.rfilename.isprintable() and "\\" not in one.rfilename
    if not plain or len(one.rfilename) > MAX_NAME:
        return None
    if any(part in ("", ".", "..") or len(part.encode()) > MAX_PART for part in parts):
        return None
    lfs = one.lfs.sha256 or one.lfs.oid if one.lfs else ""
    return RemoteFile(
        name=one.rfilename,
        size=one.size if one.size is not None and one.size >= 0 else -1,
        url=f"{session.endpoint}/{ref.repo}/resolve/{commit}/{quote(one.rfilename)}",
        sha256=lfs if _SHA256.fullmatch(lfs) else "",
        blob=one.blobId if one.blobId and _COMMIT.fullmatch(one.blobId) and not lfs else "",
        pinned=True,
    )


def _single(ref: ModelRef, session: Session) -> RemoteModel:
    size, called = measure(session, ref.source)
    file = RemoteFile(name=ref.file, size=size, url=ref.source, called=called)
    return RemoteModel(ref.source, "", (file,))
