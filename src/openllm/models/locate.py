"""What a reference stands for, and where its files are on this machine. Never asks the network."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Mapping

from msgspec.structs import replace

from openllm.errors import ConfigurationError, ModelFileError
from openllm.models import families
from openllm.models.family import Family
from openllm.models.layouts import endings, folder_contents, format_at, models_in
from openllm.models.ref import (
    MAX_NAME_LENGTH,
    ModelRef,
    bad_name,
    has_quantisation,
    is_model_name,
    parse_ref,
)
from openllm.models.registry import REGISTRY, Registered, Registry
from openllm.models.store import StoredModel, find, home, quick_check, stored
from openllm.types import LocalModel, ModelFormat

_MAX_STEPS = 8


def expand(ref: ModelRef, registry: Registry = REGISTRY) -> ModelRef:
    """Return the hub id, URL or path that `ref` stands for, under the name requests will use.

    Names are looked for in `registry`, then among the families, then among files. An id that
    is a folder here means the folder.

    Raises:
        ConfigurationError: The name is unknown; the message lists the known ones.
    """
    seen = ref
    for _ in range(_MAX_STEPS):
        if seen.kind == "name":
            meant = _meaning(seen, registry)
        elif seen.kind == "hub" and os.path.exists(seen.source):
            meant = replace(seen, kind="path", repo="", revision="", file="")
        else:
            return seen
        seen = replace(meant, name=ref.name or _kept_name(ref, meant))
    raise ConfigurationError(f"The model {ref.source!r} is registered as itself; correct that.")


def find_local(ref: ModelRef, registry: Registry = REGISTRY) -> LocalModel | None:
    """Return the model that `ref` stands for if its files are here; None if it is to be fetched.

    Raises:
        ConfigurationError: The name is unknown, or requests could not use it.
        ModelFileError: There is no such file, the folder holds no model, or a file in the store is
            damaged.
    """
    meant = expand(ref, registry)
    local = _local(meant, _given_format(ref, registry)) if meant.kind == "path" else None
    if not is_model_name(meant.served_name):
        raise bad_name(meant.served_name, meant.source)
    if local is not None:
        return local
    found = _stored(meant)
    return None if found is None else from_store(meant, quick_check(found))


def stored_model(ref: ModelRef, registry: Registry = REGISTRY) -> StoredModel | None:
    """Return the model of the store that `ref` stands for; None if there is none.

    Raises:
        ConfigurationError: The name is unknown.
    """
    meant = expand(ref, registry)
    return None if meant.kind == "path" else _stored(meant)


def from_store(ref: ModelRef, model: StoredModel) -> LocalModel:
    """Return the stored `model` under the name that requests use for `ref`, an expanded one."""
    return LocalModel(
        name=ref.served_name,
        path=model.path,
        format=model.format,
        source=model.source,
        revision=model.revision,
        tag=model.tag,
    )


def defaults_of(ref: ModelRef, registry: Registry = REGISTRY) -> Mapping[str, object]:
    """Return the settings that the registered model or the family brings, by field name.

    They are fields of `LoadOptions` and `RequestDefaults`; {} where there are none.
    """
    known = _registrations(ref, registry)
    family = family_of(ref, registry)
    defaults = dict(family.defaults) if family else {}
    for each in reversed(known):
        defaults |= each.defaults
    return defaults


def family_of(ref: ModelRef, registry: Registry = REGISTRY) -> Family | None:
    """Return the family of what `ref` stands for, whatever requests call it; None without one."""
    if known := _registrations(ref, registry):
        ref = parse_ref(known[-1].source)
    if ref.kind != "name":
        return families.family_of_id(ref.origin)
    variant = families.variant(ref.source)
    return variant.family if variant else None


def known_names(registry: Registry = REGISTRY) -> tuple[str, ...]:
    """Return every name that stands for a model: the registered ones, then the families."""
    known = (*registry, *(family.name.replace("_", "-") for family in families.families()))
    return tuple(dict.fromkeys(known))


def _meaning(ref: ModelRef, registry: Registry) -> ModelRef:
    if known := registry.get(ref.source):
        return parse_ref(known.source)
    if variant := families.variant(ref.source):
        return parse_ref(variant.source)
    if os.path.exists(ref.source):
        return replace(ref, kind="path")
    raise _unknown(ref.source, registry)


def _kept_name(typed: ModelRef, meant: ModelRef) -> str:
    """Return the name that was typed, for what is not named by its files."""
    return typed.source if typed.kind == "name" and meant.source != typed.source else ""


def _registrations(ref: ModelRef, registry: Registry) -> list[Registered]:
    """Return what the name is registered as, and that in turn, as far as `expand` goes."""
    found: list[Registered] = []
    while len(found) < _MAX_STEPS and ref.kind == "name" and (known := registry.get(ref.source)):
        found.append(known)
        ref = parse_ref(known.source)
    return found


def _given_format(ref: ModelRef, registry: Registry) -> ModelFormat | None:
    """Return the format that a registration or a family gives to `ref`'s model, if one does."""
    if known := _registrations(ref, registry):
        ref = parse_ref(known[-1].source)
        if form := next((each.format for each in known if each.format), None):
            return form
    variant = families.variant(ref.source) if ref.kind == "name" else None
    return variant.family.format if variant else None


def _stored(ref: ModelRef) -> StoredModel | None:
    found = find(ref.origin, ref.revision, "" if ref.kind == "url" else ref.file)
    if found is None and ref.kind == "hub" and ref.file and not ref.file.endswith(".gguf"):
        return _of_quantisation(ref)
    return found


def _of_quantisation(ref: ModelRef) -> StoredModel | None:
    """Return the newest stored file of the repository that has this quantisation in its name."""
    same = {model.file for model in stored() if model.source.lower() == ref.repo.lower()}
    files = [file for file in same if has_quantisation(file, ref.file)]
    found = (find(ref.repo, ref.revision, file) for file in files)
    return max(filter(None, found), key=lambda model: model.created, default=None)


def _local(ref: ModelRef, given: ModelFormat | None) -> LocalModel:
    path = _path(ref.source)
    form = given or format_at(path)
    if form is None:
        raise _no_model(ref.source, path)
    if not os.path.isfile(path) and not os.path.isdir(path):
        what = "is no regular file" if os.path.exists(path) else "does not exist"
        raise ModelFileError(f"The model file {ref.source} {what}; correct the path.")
    return LocalModel(name=ref.served_name, path=path, format=form)


def _path(source: str) -> str:
    """Return where a path leads: from here, or else from the folder of the store."""
    path = os.path.abspath(os.path.expanduser(source))
    if os.path.isabs(source) or source.startswith((".", "~")) or os.path.exists(path):
        return path
    stored = os.path.join(home(), source)
    return stored if os.path.exists(stored) else path  # Not as a Path, which raises at long names.


def _unknown(name: str, registry: Registry) -> ConfigurationError:
    known = known_names(registry)
    size = _unknown_size(name)
    if size is not None:
        return size
    typed = name[:MAX_NAME_LENGTH].lower().replace("_", "-")
    close = difflib.get_close_matches(typed, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return ConfigurationError(
        f"Unknown model {name[:80]!r}.{hint} Known models: {', '.join(known)};"
        " or give the path of a .gguf file, a hub id such as org/name, or a URL."
    )


def _unknown_size(name: str) -> ConfigurationError | None:
    """Return the error for a family that is known with a size that is not."""
    stem, colon, size = name.partition(":")
    family = families.find(stem) if colon else None
    if family is None:
        return None
    close = difflib.get_close_matches(size.lower(), family.sizes, n=1)
    hint = f" Did you mean {f'{stem}:{close[0]}'!r}?" if close else ""
    known = ", ".join(f"{stem}:{each}" for each in family.sizes) or f"{stem} alone"
    return ConfigurationError(f"Unknown model {name[:80]!r}.{hint} There are: {known}.")


def _no_model(source: str, path: str) -> ConfigurationError:
    kinds = " or ".join(endings())
    if os.path.isdir(path):
        return _no_model_folder(source, path)
    if os.path.exists(path):
        return ModelFileError(
            f"The file {source} is not a GGUF file or a script: its name does not end with {kinds}."
        )
    return ModelFileError(
        f"There is no file or folder {source[:200]}; the name of a model file ends with {kinds}."
    )


def _no_model_folder(source: str, path: str) -> ModelFileError:
    """Say what the folder lacks, and which models lie in it."""
    fix = f"give the path of a {endings()[0]} file"
    inside = next(models_in(path), "")
    if inside and inside.isprintable():
        fix = f"for the model in it give {shlex.quote(os.path.join(source, inside))}"
    return ModelFileError(
        f"The folder {source} is not a model: it does not hold {folder_contents()}; {fix}."
    )
