"""Which stored models a text means that names a model as a download takes it."""

from __future__ import annotations

from msgspec.structs import replace

from openllm.errors import ConfigurationError
from openllm.models.locate import expand
from openllm.models.ref import ModelRef, has_quantisation, parse_ref, shown_source
from openllm.models.store import StoredModel, find_tag, of_source
from openllm.models.store_derived import has_derived_tag


def meant_by(text: str) -> tuple[StoredModel, ...]:
    """Return the stored models that a family's name, a hub id or a URL means, sorted by tag.

    They are those of its revision and its file, under their derived tags; tags of the user's own
    count where there is no other. Where `text` names no file, the model stored as a whole comes
    before single files of it. Nothing is meant by what could not be downloaded.
    """
    try:
        ref = parse_ref(text)
        # An id stays one where a folder of that name lies here, as this is about the store.
        meant = ref if ref.kind == "hub" else expand(ref)
    except ConfigurationError:
        return ()
    models = of_source(meant.origin, meant.revision) if meant.origin else ()
    # A branch that is named like a commit's beginning is the branch.
    named = tuple(model for model in models if meant.revision in model.refs)
    models = named or models
    if meant.kind == "url" or not meant.file:
        models = tuple(model for model in models if not model.file) or models
    models = tuple(model for model in models if _is_file(model, meant))
    return tuple(filter(has_derived_tag, models)) or models


def tagged(name: str, version: str | None, ref: ModelRef) -> StoredModel | None:
    """Return what is stored for `ref`, an expanded hub id or URL, under a tag that was chosen.

    Without `version` it is the newest of this name. What BentoML stored is from nowhere known, and
    taken at the user's word.

    Raises:
        ConfigurationError: The tag is that of another model, or of another revision or file.
    """
    found = find_tag(f"{name}:{version or ''}")
    if found is None or not found.source:
        return found
    of_file = [model for model in of_source(ref.origin) if _is_file(model, ref)]
    ours = [model for model in of_source(ref.origin, ref.revision) if model in of_file]
    if found in ours:
        return found
    if version is None and found in of_file:  # Another revision, which has a version of its own.
        mine = (model for model in ours if model.name == name)
        return max(mine, key=lambda model: model.created, default=None)
    raise ConfigurationError(
        f"the store has {_origin(found)} under the tag {found.tag}, not {_asked(ref)}; choose"
        " another tag, or that model",
        param="model_tag",
    )


def _origin(model: StoredModel) -> str:
    at = f"@{model.revision}" if model.revision else ""
    return f"{shown_source(model.source)}{at}" + (f":{model.file}" if model.file else "")


def _asked(ref: ModelRef) -> str:
    return shown_source(str(replace(ref, name="")))


def _is_file(model: StoredModel, ref: ModelRef) -> bool:
    if ref.kind == "url" or not ref.file:
        return True
    if ref.file.endswith(".gguf"):
        return model.file == ref.file
    return has_quantisation(model.file, ref.file)
