"""Which model a text means: parsed once, printed back the same.

    demo  flan-t5  llama:7b           a bundled name, a family, a family with a size
    org/name  org/name@revision       a model on the hub; a branch, tag or commit of it
    org/name:folder/file.gguf         one file of it
    org/name:Q4_K_M                   the one GGUF file of it with this quantisation
    https://host/path/file.gguf       a GGUF file anywhere
    ./folder  ~/folder  /a/file.gguf  what is on this machine
    NAME=any of these                 the name that requests use

No file is opened here and no table is read: `openllm.models.locate` says what the parts stand for.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import Literal
from urllib.parse import unquote, urlsplit

import msgspec

from openllm.errors import ConfigurationError

RefKind = Literal["name", "hub", "url", "path"]

MAX_LENGTH = 4096
MAX_NAME_LENGTH = 128
MAX_PART_LENGTH = 96  # The hub's own limit for each half of an id.
MAIN = "main"
"""The branch that a hub id without a revision means."""
FILE_ENDINGS = (".gguf", ".script.json")
NO_WEIGHTS = "no weights"
"""Stands for the file of a reference, where no user can write it: all that lies beside weights."""
ADAPTER = "as adapter"
"""Stands for it too: the files of a LoRA adapter, in a repository of peft."""

# The characters of model names that every API surface accepts; "-" and "." never come first.
_NAME = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_:.\-]*")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+\-]{0,254}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ .,+()\[\]\-]{0,254}")
_QUANTISATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,31}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*://)(?:[^/?#]*@)?([^?#]*)([?#].*)?", re.DOTALL)
_ENCODED = re.compile(r"%(?:2e|2f|5c|00)", re.IGNORECASE)


class ModelRef(msgspec.Struct, frozen=True):
    """What a user typed for one model; `str()` gives the text back unchanged.

    Attributes:
        source: What was typed, after "NAME=" if that was there.
        name: The name chosen before "=", "" when there was none.
        kind: A bare name, an id on the hub, a URL, or a path on this machine.
        repo: Of a hub id: "org/name".
        revision: Of a hub id: what stands after "@".
        file: Of a hub id: what stands after ":", a file or a quantisation; of a URL: its file.
    """

    source: str
    name: str = ""
    kind: RefKind = "name"
    repo: str = ""
    revision: str = ""
    file: str = ""

    def __str__(self) -> str:
        return f"{self.name}={self.source}" if self.name else self.source

    @property
    def served_name(self) -> str:
        """The name that requests use; of a path, the last part without its ending."""
        if self.name or self.kind == "name":
            return self.name or self.source
        if self.kind == "hub":
            return self.repo.partition("/")[2]
        if self.kind == "url":
            return _stem(self.file)
        return _stem(os.path.basename(os.path.abspath(os.path.expanduser(self.source))))

    @property
    def origin(self) -> str:
        """Where it comes from without revision or file: "org/name", the URL, "" for others."""
        return {"hub": self.repo, "url": self.source}.get(self.kind, "")


def is_model_name(name: str) -> bool:
    """Whether requests can use `name` for a model."""
    fits = _NAME.fullmatch(name) is not None and len(name) <= MAX_NAME_LENGTH
    return fits and ".." not in name and not name.endswith(".")


def parse_ref(text: str) -> ModelRef:
    """Tell the parts of `text`; touches neither disk nor network.

    Raises:
        ConfigurationError: It is empty, too long or hostile, or one of its parts is wrong.
    """
    _check_text(text)
    name, equals, source = text.partition("=")
    if not equals or "/" in name or name.startswith("~"):
        name, source = "", text
    elif not is_model_name(name):
        raise bad_name(name, source)
    elif not source:
        raise _refused(text, "has nothing after '='; write NAME=MODEL")
    else:
        _check_text(source)
    return msgspec.structs.replace(_parse_source(source), name=name)


def has_quantisation(file: str, quantisation: str) -> bool:
    """Whether the name of a GGUF file says that its weights have this quantisation."""
    word = rf"(?<![A-Za-z0-9]){re.escape(quantisation)}(?![A-Za-z0-9_])"
    return re.search(word, file, re.IGNORECASE) is not None


def bad_name(name: str, source: str) -> ConfigurationError:
    """Return the error for a name that requests could not use."""
    allowed = f"letters, digits, _ : . and -, at most {MAX_NAME_LENGTH} of them"
    better = re.sub(r"[^A-Za-z0-9_:.]+|\.{2,}", "-", name)[:MAX_NAME_LENGTH].strip("-.") or "NAME"
    shown = shown_source(source)
    meant = shlex.quote(f"{better}={shown if len(shown) <= 200 else '...'}")
    return ConfigurationError(
        f"{name[:80]!r} cannot be the name of a model ({allowed}); write {meant}."
    )


def shown_source(text: str) -> str:
    """Return a model's text for people: of URLs without users, passwords and queries."""
    return _URL.sub(lambda url: f"{url[1]}{url[2]}{'?...' if url[3] else ''}", text)


def _check_text(text: str) -> None:
    if not text.strip():
        raise ConfigurationError("A model name is empty; give e.g. demo or ./model.gguf.")
    if len(text) > MAX_LENGTH:
        raise _refused(text, f"has {len(text)} characters; at most {MAX_LENGTH} are possible")
    if not text.isprintable():
        raise _refused(text, "has unprintable characters; remove them")
    if text != text.strip():
        raise _refused(text, "begins or ends with a space; remove it")
    if text.startswith("-"):
        raise _refused(text, f"begins with '-'; write ./{text[:80]} instead")
    if "\\" in text:
        raise _refused(text, "has a backslash; write / between folders")
    if _ENCODED.search(text):
        raise _refused(text, "has percent-encoded dots or separators; write them as they are")


def _parse_source(source: str) -> ModelRef:
    if scheme := _SCHEME.match(source):
        return _parse_url(source, scheme[1])
    if _is_path(source):
        return ModelRef(source, kind="path")
    if "/" in source:
        return _parse_hub(source) or ModelRef(source, kind="path")
    return ModelRef(source, kind="name" if is_model_name(source) else "path")


def _is_path(source: str) -> bool:
    """Whether the text says by itself that it is on this machine; "a/b" may yet be either."""
    if source.startswith("~") and not source.startswith("~/") and source != "~":
        raise _refused(source, "begins with another user's home; write its path from /")
    first = source.partition("/")[0]
    marked = source.startswith("/") or first in (".", "..", "~")
    file = source.endswith(FILE_ENDINGS) and not _names_repository(source)
    return marked or file


def _names_repository(source: str) -> bool:
    repo, colon, _ = source.partition(":")
    return bool(colon) and repo.count("/") >= 1


def _parse_url(source: str, scheme: str) -> ModelRef:
    if scheme.lower() not in ("http", "https"):
        raise _refused(source, f"cannot be fetched by {scheme[:20]}; write https:// or a path")
    try:
        parts = urlsplit(source)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise _refused(source, f"is no URL ({error}); correct it") from None
    if "@" in parts.netloc:
        raise ConfigurationError(
            "The URL of a model holds a user name or password; remove it and give"
            " --download-header 'Authorization: ...' instead."
        )
    if not host or not source.isascii() or " " in source or parts.fragment:
        raise _refused(source, "is no URL of a file; write https://HOST/PATH/FILE.gguf")
    file = unquote(parts.path.rpartition("/")[2])
    if not file.lower().endswith(".gguf") or not _is_file(file) or not _stem(file):
        comma = ", and a comma separates models only behind that" if "," in source else ""
        raise _refused(
            source, f"is not the URL of a GGUF file; its path must end with NAME.gguf{comma}"
        )
    return ModelRef(source, kind="url", file=file)


def _parse_hub(source: str) -> ModelRef | None:
    """Tell the parts of a hub id; None for what can only be a path."""
    head, colon, file = source.partition(":")
    repo, at, revision = head.partition("@")
    organisation, _, name = repo.partition("/")
    if not (_is_part(organisation) and _is_part(name)):
        if colon or at:
            raise _refused(source, "has no valid ORG/NAME; write ORG/NAME@REVISION:FILE.gguf")
        return None
    if at and not _is_revision(revision):
        raise _refused(source, "has no valid revision after '@'; give a branch, tag or commit")
    if colon and not _is_gguf_or_quantisation(file):
        raise _refused(
            source, "has no GGUF file after ':'; write ORG/NAME@REVISION:FILE.gguf or :Q4_K_M"
        )
    return ModelRef(source, kind="hub", repo=repo, revision=revision, file=file)


def _is_part(part: str) -> bool:
    fits = _PART.fullmatch(part) is not None and len(part) <= MAX_PART_LENGTH
    return fits and ".." not in part and "--" not in part and not part.endswith((".", "-", ".git"))


def _is_revision(revision: str) -> bool:
    parts = revision.split("/")
    return _REVISION.fullmatch(revision) is not None and all(
        part and not part.startswith((".", "-")) and ".." not in part and not part.endswith(".")
        for part in parts
    )


def _is_gguf_or_quantisation(file: str) -> bool:
    if "/" not in file and not file.endswith(".gguf"):
        return _QUANTISATION.fullmatch(file) is not None
    return file.endswith(".gguf") and bool(_stem(file)) and all(map(_is_file, file.split("/")))


def _is_file(name: str) -> bool:
    return _FILE.fullmatch(name) is not None and ".." not in name and name[-1] not in ". "


def _stem(file: str) -> str:
    ending = next((each for each in FILE_ENDINGS if file.lower().endswith(each)), "")
    return file[: len(file) - len(ending)]


def _refused(text: str, why: str) -> ConfigurationError:
    text = shown_source(text)
    shown = repr(text[:80]) + ("..." if len(text) > 80 else "")
    return ConfigurationError(f"The model {shown} {why}.")
