"""YAML and JSON with the line of every value, and nothing that surprises.

Of YAML this is the part that JSON has too, in YAML's notation: no aliases, no tags, no merge keys,
one document, no key twice; `yes` is text, and `0o17` or `1:30` are no numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from openllm.errors import ConfigurationError

MAX_DEPTH = 20
_PLAIN = ("null", "bool", "int", "float", "str")


class Node(NamedTuple):
    """A value and the line it begins on; `content` of a list or mapping is made of nodes.

    A mapping's values have the line of their key.
    """

    content: object
    line: int

    def plain(self) -> Any:
        """Return the value itself."""
        if isinstance(self.content, dict):
            return {key: node.plain() for key, node in self.content.items()}
        if isinstance(self.content, list):
            return [node.plain() for node in self.content]
        return self.content


def read_nodes(text: str, mistakes: list[str], *, is_json: bool) -> Node:
    """Parse one document; an empty one is a node of None.

    What is wrong with single keys and values goes to `mistakes`, and they are left out. Every
    message, also an error's, begins with ", line N: ".

    Raises:
        ConfigurationError: The text cannot be read at all.
    """
    import yaml

    if is_json:
        _check_json(text)
        text = text.replace("\t", " ")  # Only between values; YAML wants blanks there.
    try:
        root = yaml.compose(text, Loader=_loader(mistakes))
        if root is None:
            return Node(None, 1)
        return _Builder(mistakes).node(root, root.start_mark.line + 1, 0)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _refused(mark.line + 1 if mark else 1, _problem(error)) from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise _refused(line, "there is a character that cannot be printed; remove it") from None
    except RecursionError:
        raise _refused(1, "the file is nested too deeply") from None


def _problem(error: Any) -> str:
    if (problem := error.problem or error.context) == "but found another document":
        return "a second document begins here; leave one"
    return f"this is not YAML: {problem or 'this cannot be read'}"


def _check_json(text: str) -> None:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise _refused(error.lineno, f"this is not JSON: {error.msg}") from None
    except RecursionError:
        raise _refused(1, "the file is nested too deeply") from None


def _loader(mistakes: list[str]) -> Any:
    """Return a loader that knows JSON's scalars only, and neither aliases nor tags."""
    import yaml

    def compose_node(self: Any, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise _refused(
                event.start_mark.line + 1,
                f"aliases such as *{event.anchor} are not read; write the value itself",
            )
        event = self.peek_event()
        if event.tag is not None:
            line = event.start_mark.line + 1
            problem = f"the tag {event.tag} is not read; write the value without it"
            mistakes.append(f", line {line}: {problem}")
        return yaml.SafeLoader.compose_node(self, parent, index)

    own = {"yaml_implicit_resolvers": {}, "compose_node": compose_node}
    loader: Any = type("Loader", (yaml.SafeLoader,), own)
    for kind, pattern, first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"-?(?:0|[1-9][0-9]*)", list("-0123456789")),
        ("float", r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?", list("-0123456789")),
    ):
        tag = f"tag:yaml.org,2002:{kind}"
        loader.add_implicit_resolver(tag, re.compile(f"^(?:{pattern})$"), first)
    return loader


class _Builder:
    def __init__(self, mistakes: list[str]) -> None:
        self._mistakes = mistakes

    def node(self, node: Any, line: int, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise _refused(line, "this is nested too deeply")
        if node.id == "mapping":
            return Node(dict(self._pairs(node, depth)), line)
        if node.id == "sequence":
            items = [self.node(each, each.start_mark.line + 1, depth + 1) for each in node.value]
            return Node(items, line)
        return Node(self._scalar(node, line), line)

    def _pairs(self, node: Any, depth: int) -> Iterator[tuple[str, Node]]:
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self._scalar(key_node, line) if key_node.id == "scalar" else None
            if not isinstance(key, str):
                shown = repr(key) if key_node.id == "scalar" else "this"
                self._wrong(line, f"{shown} is no name of an option; names are text")
            elif (same := key.replace("-", "_")) in lines:
                first = lines[same]
                self._wrong(line, f"{key} is given twice, first on line {first}; leave one")
            else:
                lines[same] = line
                yield key, self.node(value_node, line, depth + 1)

    def _scalar(self, node: Any, line: int) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        text: str = node.value
        if kind not in _PLAIN:
            return text  # The loader has refused the tag.
        if kind == "str":
            # JSON writes a character beyond 16 bits as two escapes; YAML reads them one by one.
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if kind == "null":
            return None
        return text.lower() == "true" if kind == "bool" else _number(text, line)

    def _wrong(self, line: int, problem: str) -> None:
        self._mistakes.append(f", line {line}: {problem}")


def _number(text: str, line: int) -> int | float:
    if len(text) > 400:
        raise _refused(line, f"a number has {len(text)} digits; shorten it")
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise _refused(line, f"{text[:40]!r} is no number") from None


def _refused(line: int, problem: str) -> ConfigurationError:
    return ConfigurationError(f", line {line}: {problem}")
