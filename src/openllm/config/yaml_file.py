"""The configuration file, YAML or JSON: options by name, and models with options of their own.

    port: 8080
    temperature: 0.5
    models:
      llama:
        model: org/name@revision
        temperature: 0.2
      demo:

`models` may also be a list of models, or a text as on the command line. A name or a value has the
place where it stands; what may stand there is `openllm.config.effective`'s affair.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from openllm.config.fields import (
    FIELDS,
    MODEL_FIELDS,
    SECTIONS,
    all_names,
    as_items,
    field_name,
    is_secret,
    suggestion,
    takes_names,
    written,
)
from openllm.config.given_file import content_of
from openllm.config.model_list import split_models
from openllm.config.sources import Given, Values, put
from openllm.config.yaml_nodes import Node, read_nodes
from openllm.errors import ConfigurationError

ENDINGS = (".yaml", ".yml", ".json")
MAX_BYTES = 1 << 20


class Section(NamedTuple):
    """One model of the file: as the command line would name it, where, and its own options."""

    text: str
    origin: str
    values: Values


class Document(NamedTuple):
    """What the file says; `values` hold for the server and every model."""

    values: Values
    models: tuple[Section, ...]


NOTHING = Document({}, ())


def is_configuration(text: str) -> bool:
    """Whether an argument is a configuration file and no model, by the end of its name."""
    return text.endswith(ENDINGS) and not text.endswith(".script.json") and "=" not in text


def read_document(path: str, mistakes: list[str]) -> Document:
    """Read a file; what is wrong goes to `mistakes`, and the rest of it is read all the same."""
    found: list[str] = []
    try:
        root = read_nodes(_content(path), found, is_json=path.endswith(".json"))
    except ConfigurationError as error:
        mistakes.append(f"{path}{error.message}")
        return NOTHING
    finally:
        mistakes += [f"{path}{each}" for each in found]
    if not isinstance(root.content, dict):
        if root.content is not None:
            mistakes.append(f"{path}, line {root.line}: write NAME: VALUE, one option a line")
        return NOTHING
    return _Reader(path, mistakes).document(root.content)


def _content(path: str) -> str:
    try:
        data = content_of(Path(path).expanduser(), MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigurationError(": there is no such file; correct the path") from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f": the file cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        raise ConfigurationError(f": the file is longer than {MAX_BYTES} bytes; shorten it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigurationError(
            f", line {line}: this is not UTF-8; save the file as UTF-8"
        ) from None


class _Reader:
    def __init__(self, path: str, mistakes: list[str]) -> None:
        self._path = path
        self._mistakes = mistakes

    def document(self, root: dict[str, Node]) -> Document:
        models: tuple[Section, ...] = ()
        if (node := root.pop("models", None)) is not None:
            models = tuple(self._models(node))
        return Document(self._values(root, "", tuple(FIELDS)), models)

    def _models(self, node: Node) -> Iterator[Section]:
        if isinstance(node.content, dict):
            for name, each in node.content.items():
                yield self._section(name, each)
        elif isinstance(node.content, list):
            for each in node.content:
                yield from self._named(each)
        elif node.content is not None:
            yield from self._named(node)

    def _named(self, node: Node) -> Iterator[Section]:
        if isinstance(node.content, str):
            place = self._place(node, "models")
            try:
                yield from (Section(text, place, {}) for text in split_models(node.content))
            except ConfigurationError as error:
                self._mistakes.append(f"{place}: {error.message}")
        else:
            self._wrong(node, "models", "write the name of a model, such as demo")

    def _section(self, name: str, node: Node) -> Section:
        path = f"models.{name}"
        place = self._place(node, path)
        if isinstance(node.content, str):
            return Section(f"{name}={node.content}", place, {})
        if node.content is None:
            return Section(name, place, {})
        if not isinstance(node.content, dict):
            self._wrong(node, path, "write options below the model's name, or the model itself")
            return Section(name, place, {})
        fields = dict(node.content)
        model = fields.pop("model", None)
        if model is not None and not isinstance(model.content, str):
            self._wrong(model, f"{path}.model", "write a model as the command line takes it")
            model = None
        text = name if model is None else f"{name}={model.content}"
        return Section(text, place, self._values(fields, f"{path}.", MODEL_FIELDS))

    def _values(self, fields: dict[str, Node], path: str, known: tuple[str, ...]) -> Values:
        values: Values = {}
        for key, node in fields.items():
            name = field_name(key)
            if name not in known:
                self._mistakes.append(f"{self._place(node, path + key)}: {_unknown(key, known)}")
            elif (value := self._value(name, node, path + key)) is not _REFUSED:
                origin = self._place(node, path + key)
                put(values, name, Given(as_items(FIELDS[name], value), origin), self._mistakes)
        return values

    def _value(self, name: str, node: Node, path: str) -> object:
        if isinstance(node.content, dict) and not takes_names(FIELDS[name]):
            self._wrong(node, path, "this takes no options below it", shown=False)
            return _REFUSED
        if isinstance(node.content, dict):
            return node.plain()
        if isinstance(node.content, list):
            return tuple(each.plain() for each in node.content)
        return node.content

    def _wrong(self, node: Node, path: str, fix: str, *, shown: bool = True) -> None:
        secret = path in FIELDS and is_secret(FIELDS[path])
        shown = shown and not secret and node.content is not None
        value = f" {written(node.plain())[:80]}" if shown else ""
        self._mistakes.append(f"{self._place(node, path)}{value}: {fix}")

    def _place(self, node: Node, path: str) -> str:
        return f"{self._path}, line {node.line}: {path}"


_REFUSED = object()


def _unknown(key: str, known: tuple[str, ...]) -> str:
    if field_name(key) in FIELDS:
        return "this is an option of the whole server; write it at the top of the file"
    section = next((each for each in SECTIONS if each.lower() == key.lower()), "")
    if section:
        return "there are no sections; write the options themselves, without this line"
    more = ("models",) if known == tuple(FIELDS) else ("model",)
    hint = suggestion(key.replace("-", "_"), (*all_names(known), *more))
    return f"there is no such option{f'{hint}?' if hint else '; `openllm config docs` lists all'}"
