"""What a model folder says of text: its chat template and the tokens that mean more than text.

A tokenizer in `tokenizer.json` puts BOS first if its post-processor does, whatever
`tokenizer_config.json` says; only without that file the flag `add_bos_token` decides. This is how
transformers 5 reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from openllm.models.folder_files import FolderFiles
from openllm.models.gguf_window import shown

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
MAX_TOKENIZER_BYTES = 256 * 1024 * 1024

_LOOKED_FOR = f"{TOKENIZER}, {SETTINGS}, tokenizer.model, vocab.json, vocab.txt or tekken.json"
# Also what may be a tokenizer's in a folder that has none of the known names: an engine shall say.
_TOKENIZER_FILE = re.compile(
    r".*(tokeniz|vocab|merges|bpe|spm|spiece|sentencepiece|tekken|dict).*|.+\.(model|tiktoken)",
    re.IGNORECASE,
)
_WITHOUT_FILES = ("byt5", "canine")
_TOKEN_LISTS = ("additional_special_tokens", "extra_special_tokens")


class FolderTokens(Struct, frozen=True, kw_only=True):
    """See the fields of the same names in `openllm.models.folder.ModelFolder`."""

    chat_template: str
    control_tokens: tuple[str, ...]
    bos_token: str
    eos_token: str
    add_bos: bool


class _AddedToken(Struct, frozen=True):
    content: str
    special: bool = False


class _Piece(Struct, frozen=True):
    id: str


class _TemplatePart(Struct, frozen=True):
    special: _Piece | None = msgspec.field(default=None, name="SpecialToken")


class _PostProcessor(Struct, frozen=True):
    """Of all kinds at once: a template, a sequence of processors, or BERT's and RoBERTa's."""

    type: str = ""
    single: tuple[_TemplatePart, ...] = ()
    processors: tuple[_PostProcessor, ...] = ()
    cls: tuple[str, int] | None = None

    def first_token(self) -> str | None:
        if self.processors:
            found = (each.first_token() for each in self.processors)
            return next((token for token in found if token is not None), None)
        if self.cls is not None:
            return self.cls[0]
        special = self.single[0].special if self.single else None
        return special.id if special else None


class _Tokenizer(Struct, frozen=True):
    added_tokens: tuple[_AddedToken, ...] = ()
    post_processor: _PostProcessor | None = None


def has_tokenizer(files: FolderFiles) -> bool:
    """Whether the folder holds files of a tokenizer of whatever kind, as far as names tell."""
    return any(map(_TOKENIZER_FILE.fullmatch, files.names))


def refuse_no_tokenizer(files: FolderFiles, config: dict[str, Any], *, code: bool) -> None:
    """Fail if the folder clearly holds no tokenizer.

    Args:
        files: The folder, which may lie on a hub.
        config: Content of its `config.json`, which may name a tokenizer that needs no files.
        code: Whether Python code in the folder is trusted, so that it may make one.

    Raises:
        ModelFileError: It holds none; names the files that were looked for.
    """
    named = config.get("tokenizer_class") or config.get("model_type") in _WITHOUT_FILES
    own = code and any(name.endswith(".py") for name in files.names)
    if named or own or has_tokenizer(files):
        return
    files.fail(
        TOKENIZER,
        f"does not exist, nor another file of a tokenizer ({_LOOKED_FOR}); add those of the model,"
        " or name with --tokenizer a hub id or a folder that has them",
    )


def read_tokens(files: FolderFiles, tokenizer_settings: dict[str, Any]) -> FolderTokens:
    """Read what `tokenizer_settings`, the content of `tokenizer_config.json`, leaves to others.

    Raises:
        ModelFileError: A file is damaged, or a chat template is none; names file and value.
    """
    special = files.object(SPECIAL) or {}
    tokenizer = _tokenizer(files)
    bos, eos = (
        _token_text(tokenizer_settings.get(name, special.get(name)))
        for name in ("bos_token", "eos_token")
    )
    if tokenizer is None:
        add_bos = tokenizer_settings.get("add_bos_token") is True
    else:
        first = tokenizer.post_processor and tokenizer.post_processor.first_token()
        add_bos = bool(bos) and first == bos
    texts = (
        [token.content for token in tokenizer.added_tokens if token.special] if tokenizer else []
    )
    texts += [*_special_texts(tokenizer_settings), *_special_texts(special)]
    return FolderTokens(
        chat_template=_chat_template(files, tokenizer_settings),
        control_tokens=tuple(dict.fromkeys(text for text in texts if text.strip(" \t\r\n\u2581"))),
        bos_token=bos,
        eos_token=eos,
        add_bos=add_bos,
    )


def _tokenizer(files: FolderFiles) -> _Tokenizer | None:
    content = files.content(TOKENIZER, MAX_TOKENIZER_BYTES)
    if content is None:
        return None
    try:
        return msgspec.json.decode(content, type=_Tokenizer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        files.fail(TOKENIZER, f"is no tokenizer ({error}); download it again")


def _special_texts(settings: dict[str, Any]) -> Iterator[str]:
    """Yield the texts of the special tokens in one of the two files of settings."""
    decoder = settings.get("added_tokens_decoder")
    for token in decoder.values() if isinstance(decoder, dict) else ():
        if isinstance(token, dict) and token.get("special") is True:
            yield _token_text(token)
    for key, value in settings.items():
        if key.endswith("_token"):
            yield _token_text(value)
    for key in _TOKEN_LISTS:
        listed = settings.get(key)
        listed = list(listed.values()) if isinstance(listed, dict) else listed
        for token in listed if isinstance(listed, list) else ():
            yield _token_text(token)


def _token_text(token: Any) -> str:
    """Return a token's text, which may stand alone or beside its flags; "" for what is none."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _chat_template(files: FolderFiles, settings: dict[str, Any]) -> str:
    alone = files.text("chat_template.jinja", MAX_TOKENIZER_BYTES)
    if alone is not None:
        return alone
    if settings.get("chat_template"):
        return _template(files, SETTINGS, settings["chat_template"])
    old = files.object("chat_template.json") or {}
    return _template(files, "chat_template.json", old.get("chat_template") or "")


def _template(files: FolderFiles, name: str, value: Any) -> str:
    """Return the template that `chat_template` holds: a text, or of several the default."""
    if isinstance(value, list):
        value = _default_template(files, name, value)
    if not isinstance(value, str):
        files.fail(name, "has a chat_template that is neither a text nor a list of named texts")
    if "{" not in value and ("/" in value or "\\" in value or value.endswith(".jinja")):
        files.fail(name, f"has the chat_template {shown(value)}, a path; put the text there")
    return value


def _default_template(files: FolderFiles, name: str, templates: list[Any]) -> Any:
    found: dict[str, Any] = {}
    for entry in templates:
        title = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(title, str):
            files.fail(name, "has a chat_template without a name; name one of them 'default'")
        if "/" in title or "\\" in title or ".." in title:
            files.fail(name, f"names a chat_template {shown(title)}, a path; rename it")
        found[title] = entry.get("template")
    if "default" not in found:
        files.fail(name, f"has chat_templates {sorted(found)} and none named 'default'; rename one")
    return found["default"]
