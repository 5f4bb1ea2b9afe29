"""The settings of one model: what the user said, the environment, and what its family brings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from openllm.config.download import DownloadOptions
from openllm.config.effective import Entry, Named, configure
from openllm.config.environment import read_environment
from openllm.config.explain import together
from openllm.config.fields import ALIASES, MODEL_FIELDS
from openllm.config.model import LoadOptions, ModelConfig
from openllm.config.models_dir import adopt_models_dir
from openllm.config.names import PREFIX, RESERVED, variable
from openllm.config.sources import Given, Layer, model_key
from openllm.errors import ConfigurationError
from openllm.llm.arguments import check_names, renamed
from openllm.models.locate import defaults_of, expand, family_of, known_names
from openllm.models.ref import ModelRef
from openllm.models.revision import with_revision

OPTIONS = (*MODEL_FIELDS, *(other for other, name in ALIASES.items() if name in MODEL_FIELDS))


class ModelSettings(NamedTuple):
    """What holds for one model.

    Attributes:
        given: Of its load options those that were set for it and not for all models.
    """

    config: ModelConfig
    download: DownloadOptions
    given: LoadOptions


def model_settings(
    ref: ModelRef,
    options: Mapping[str, Any],
    environ: Mapping[str, str],
    *,
    download: DownloadOptions | None = None,
) -> ModelSettings:
    """Return the settings of a model that is not served.

    The options come first; then OPEN_LLM_<MODEL>_<FIELD>, OPEN_LLM_<FIELD>, what the model's family
    or its registration brings, and the fields' defaults. What is set for all models and of no use
    to this one is passed over.

    Args:
        ref: As the user typed it.
        options: Fields of `LoadOptions`, `RequestDefaults` and `DownloadOptions`, or their aliases.
        environ: Where OPEN_LLM_* is looked up.
        download: All settings of downloads, in the place of those that say so one by one.

    Raises:
        TypeError: There is no such option, or one beside `download`, which has them all.
        ConfigurationError: Values or variables are wrong; the message names all of them.
    """
    check_names("LLM", options, OPTIONS)
    given = renamed("LLM", options)
    if download is not None and (both := DownloadOptions.model_fields.keys() & given.keys()):
        names = " and ".join(sorted(both))
        raise TypeError(f"download and {names} are both given; put all of it into download")
    if given.get("stop_sequence") == "":
        del given["stop_sequence"]
    adopt_models_dir(environ.get(variable("models_dir")))
    named = named_model(ref)
    mistakes: list[str] = []
    own = {name: Given(value, name) for name, value in given.items()}
    layers = (
        Layer({}, {model_key(named.name): own}),
        read_environment(environ, [named.name], other_names(environ), mistakes, others=True),
    )
    (entry,) = configure([named], layers, mistakes).entries
    if mistakes:
        raise ConfigurationError(together(mistakes))
    return ModelSettings(entry.config, download or _download(entry, ref), _given(entry))


def named_model(ref: ModelRef) -> Named:
    """Return what is known of a model before its settings; raises `ConfigurationError`."""
    meant = expand(ref)  # First: it refuses what stands for itself.
    family = family_of(ref)
    return Named(
        text=str(ref),
        name=meant.served_name,
        defaults=defaults_of(ref),
        origin=f"family {ref.source}",
        family=family.name.replace("_", "-") if family else "",
    )


def other_names(environ: Mapping[str, str], further: Iterable[str] = ()) -> Sequence[str]:
    """Return names of models that variables may be for, though they are not meant here."""
    if not any(name.startswith(PREFIX) and name not in RESERVED for name in environ):
        return ()
    return (*known_names(), *further)


def _given(entry: Entry) -> LoadOptions:
    fields = LoadOptions.model_fields
    given = [name for name in fields if entry.settings[name].scope in ("model", "family")]
    return LoadOptions().model_copy(
        update={name: getattr(entry.config.load, name) for name in given}
    )


def _download(entry: Entry, ref: ModelRef) -> DownloadOptions:
    """Return how to download, without a revision that is for all models and that this has not."""
    download = entry.download
    if download.revision is not None and entry.settings["revision"].scope == "all":
        try:
            with_revision(ref, download.revision)
        except ConfigurationError:
            return download.model_copy(update={"revision": None})
    return download
