"""The settings that a registered model or a family brings, checked where they are added."""

from __future__ import annotations

from collections.abc import Mapping

from openllm.errors import ConfigurationError


def check_defaults(owner: str, defaults: Mapping[str, object]) -> None:
    """Check that each is a field of `LoadOptions` or `RequestDefaults` with a value it takes.

    Args:
        owner: Whose they are, for messages.
        defaults: Values by field name.

    Raises:
        ConfigurationError: Something is wrong; the message names all of it.
    """
    if not defaults:
        return
    from openllm.config.effective import checked
    from openllm.config.explain import together
    from openllm.config.fields import suggestion
    from openllm.config.model import LoadOptions, RequestDefaults
    from openllm.config.sources import Given

    known = (*LoadOptions.model_fields, *RequestDefaults.model_fields)
    mistakes = [
        f"{owner}: there is no setting {name!r}{suggestion(name, known)}"
        for name in defaults
        if name not in known
    ]
    given = {name: Given(value, f"{owner}: {name}") for name, value in defaults.items()}
    checked(LoadOptions, [given], mistakes)
    checked(RequestDefaults, [given], mistakes)
    if mistakes:
        raise ConfigurationError(together(mistakes))
