"""Which stored models a text means that names a model as a download takes it."""

from __future__ import annotations

from openllm.errors import ConfigurationError
from openllm.models.locate import expand
from openllm.models.ref import ModelRef, has_quantisation, parse_ref
from openllm.models.store import StoredModel, of_source


def meant_by(text: str) -> tuple[StoredModel, ...]:
    """Return the stored models that a family's name, a hub id or a URL means, sorted by tag.

    They are those of its revision and its file. Where `text` names no file, the model stored as a
    whole comes before single files of it. Nothing is meant by what could not be downloaded.
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
        return tuple(model for model in models if not model.file) or models
    return tuple(model for model in models if _is_file(model, meant))


def _is_file(model: StoredModel, ref: ModelRef) -> bool:
    if ref.file.endswith(".gguf"):
        return model.file == ref.file
    return has_quantisation(model.file, ref.file)
