"""From what the user said to a checked configuration: arguments, environment and file together.

Knows which models there are; nothing is loaded or downloaded here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from openllm.config.by_model import Owners, put_apart
from openllm.config.effective import Configuration, Entry, Named, Setting, configure
from openllm.config.environment import read_environment
from openllm.config.explain import together
from openllm.config.fields import FIELDS, names_models
from openllm.config.flags import as_flag, read_flags
from openllm.config.model_list import split_models
from openllm.config.models_dir import using_models_dir
from openllm.config.names import CONFIGURATION, MODELS, flag
from openllm.config.scope import misplaced
from openllm.config.sources import Layer, empty, model_key, put
from openllm.config.yaml_file import (
    NOTHING,
    Document,
    Section,
    is_configuration,
    read_document,
)
from openllm.errors import ConfigurationError, OpenLLMError

BUNDLED = "demo"


class _Asked(NamedTuple):
    """A model to be served, as it was written and, if that was in a file, where."""

    text: str
    origin: str = ""


def read_configuration(
    models: str | None,
    options: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    file: str | None = None,
    origin: Callable[[str], str] = as_flag,
) -> Configuration:
    """Return what is to be served and how; from here on `models_dir` is the process's store.

    Args:
        models: Models separated by commas, or a configuration file; None for those that the
            environment or the file names, or else the bundled one.
        options: Fields of the settings; "model.field" is for one model or the sizes of a family.
        environ: Where OPEN_LLM_* is looked up.
        file: The configuration file, before the one that OPEN_LLM_CONFIGURATION names.
        origin: Says of the name of an option how the user wrote it.

    Raises:
        ConfigurationError: Something is wrong; the message names all of it.
    """
    mistakes: list[str] = []
    if models is not None and is_configuration(models):
        if file is not None:
            mistakes.append(f"{models} and --config {file} are both files; leave one out")
        models, file = None, models
    file = file or environ.get(CONFIGURATION)
    document = read_document(file, mistakes) if file else NOTHING
    with using_models_dir(_models_dir(options, environ, document)):
        asked = _asked(models, environ, document, mistakes)
        named = _in_families([_named(each, mistakes) for each in asked], document)
        started = [each.name for each in named]
        families = [each.family for each in named if each.family]
        sections = [each.text.partition("=")[0] for each in document.models]
        from openllm.llm.settings import other_names

        layers = (
            read_flags(options, started, mistakes, families=families, origin=origin),
            read_environment(environ, started, other_names(environ, sections), mistakes),
            _layer(document, started, families, mistakes),
        )
        found = _at_revisions(configure(named, layers, mistakes), named, mistakes)
        if mistakes:
            from openllm.bento.checks import wrong_models  # Which itself needs `blame`.

            known = {each.name for each in named if each.known}
            mistakes += wrong_models([each for each in found.entries if each.name in known])
            raise ConfigurationError(together(mistakes))
        return found


def blame(error: OpenLLMError, settings: Mapping[str, Setting]) -> str:
    """Return an error's message with the place where the option to blame was given."""
    option = error.param or ""
    if option not in settings:
        return error.message
    origin = settings[option].origin
    if origin == "default":
        origin = flag(option)
    if flag(option) in error.message:
        return error.message.replace(flag(option), origin, 1)
    return f"{origin}: {error.message}"


def _models_dir(
    options: Mapping[str, object], environ: Mapping[str, str], document: Document
) -> object:
    """Return where models are, which has to be known before their names are looked up."""
    layers = (read_flags(options, (), []), read_environment(environ, (), (), []))
    for values in (*(layer.general for layer in layers), document.values):
        if "models_dir" in values:
            return values["models_dir"].value
    return None


def _at_revisions(
    configuration: Configuration, named: Sequence[Named], mistakes: list[str]
) -> Configuration:
    """Return the configuration with the option `revision` in the names of its models."""
    entries = configuration.entries
    refused: dict[str, ConfigurationError] = {}
    revised = tuple(
        _at_revision(entry, refused) if each.known else entry
        for entry, each in zip(entries, named, strict=True)
    )
    wrong = [each[0] for each in misplaced(entries, "revision", refused)]
    mistakes += [blame(refused[each.name], each.settings) for each in wrong]
    return configuration._replace(entries=revised)


def _at_revision(entry: Entry, refused: dict[str, ConfigurationError]) -> Entry:
    """Return the entry with its revision; one that has none as it is, with the reason."""
    from openllm.models.ref import parse_ref
    from openllm.models.revision import with_revision

    if entry.download.revision is None:
        return entry
    try:
        ref = with_revision(parse_ref(entry.text), entry.download.revision)
    except ConfigurationError as error:
        refused[entry.name] = error
        return entry
    return entry._replace(text=str(ref))


def _asked(
    models: str | None, environ: Mapping[str, str], document: Document, mistakes: list[str]
) -> list[_Asked]:
    """Return what is to be served; a name that the file has means the file's model."""
    if models is not None:
        asked = _split(models, "", mistakes)
    elif MODELS in environ:
        asked = _split(environ[MODELS], MODELS, mistakes)
    else:
        return [_Asked(each.text, each.origin) for each in document.models] or [_Asked(BUNDLED)]
    known = {each.text.partition("=")[0]: each for each in document.models}
    return [
        _Asked(known[each.text].text, known[each.text].origin) if each.text in known else each
        for each in asked
    ]


def _split(text: str, origin: str, mistakes: list[str]) -> list[_Asked]:
    try:
        parts = split_models(text)
    except ConfigurationError as error:
        mistakes.append(_located(error, origin))
        return []
    if not all(parts):
        where = f"{origin}: " if origin else ""
        mistakes.append(f"{where}The list of models {text[:80]!r} has an empty entry.")
    return [_Asked(part, origin) for part in parts if part]


def _named(asked: _Asked, mistakes: list[str]) -> Named:
    """Return the model's name and what its family brings; of a wrong one, the text as its name."""
    from openllm.llm.fetching import known_ref
    from openllm.llm.settings import named_model

    try:
        return named_model(known_ref(asked.text))._replace(text=asked.text)
    except OpenLLMError as error:
        mistakes.append(_located(error, asked.origin))
        return Named(asked.text, asked.text, known=False)


def _in_families(models: Sequence[Named], document: Document) -> list[Named]:
    """Return the models without a family whose name is a model's own here, started or in the file.

    That name is for that model alone.
    """
    sections = (each.text.partition("=") for each in document.models)
    taken = {model_key(each.name) for each in models}
    taken |= {model_key(name) for name, equals, _ in sections if equals}
    return [
        each._replace(family="") if model_key(each.family) in taken else each for each in models
    ]


def _layer(
    document: Document, started: Sequence[str], families: Sequence[str], mistakes: list[str]
) -> Layer:
    sections = [(_section_name(each, mistakes), each.values) for each in document.models]
    owners = Owners(started, [*families, *(name for name, _ in sections)])
    layer = empty()
    for field, given in document.values.items():
        if names_models(FIELDS[field]):
            put_apart(layer, field, given, owners, mistakes)
        else:
            layer.general[field] = given
    for name, values in sections:
        for field, given in values.items():
            put(layer.of(model_key(name)), field, given, mistakes)
    return layer


def _section_name(section: Section, mistakes: list[str]) -> str:
    from openllm.models.ref import parse_ref

    try:
        return parse_ref(section.text).served_name
    except OpenLLMError as error:
        mistakes.append(_located(error, section.origin))
        return section.text


def _located(error: OpenLLMError, origin: str) -> str:
    return f"{origin}: {error.message}" if origin else error.message
