"""The revision of a hub model, given beside its name."""

from __future__ import annotations

from openllm.errors import ConfigurationError
from openllm.models.locate import expand
from openllm.models.ref import ModelRef, parse_ref
from openllm.models.registry import REGISTRY, Registry


def with_revision(ref: ModelRef, revision: str, registry: Registry = REGISTRY) -> ModelRef:
    """Return what `ref` stands for at a branch, tag or commit, under the name it has.

    It replaces the revision that a family or a registration names, but none that was typed.

    Raises:
        ConfigurationError: The model is unknown, comes from no hub, or was typed with a revision;
            or `revision` is none.
    """
    meant = expand(ref, registry)
    if meant.kind != "hub":
        where = "is a file's URL" if meant.kind == "url" else "is on this machine"
        raise _refused(
            f"model {meant.served_name!r} {where} and has no revisions; leave the revision out"
        )
    if ref.revision:
        raise _refused(f"{ref.source!r} names a revision itself; leave one of the two out")
    file = f":{meant.file}" if meant.file else ""
    try:
        found = parse_ref(f"{meant.served_name}={meant.repo}@{revision}{file}")
    except ConfigurationError:
        found = None
    if found is None or found.revision != revision:  # What follows ":" would be taken for a file.
        raise _refused(f"{revision[:80]!r} is no branch, tag or commit; correct it")
    return found


def _refused(message: str) -> ConfigurationError:
    return ConfigurationError(message, param="revision")
