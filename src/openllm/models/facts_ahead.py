"""What a model that is not here needs memory for, where asking costs little beside a download."""

from __future__ import annotations

import logging

from openllm.config.download import DownloadOptions
from openllm.errors import ModelFetchError
from openllm.models.facts import ModelFacts, facts_of_remote
from openllm.models.ref import ModelRef

logger = logging.getLogger("openllm")

WORTH_ASKING = 32 << 20
"""Bytes of a download: headers are some megabytes, and asked for they are fetched twice."""
_RETRIES = 1


def facts_ahead(ref: ModelRef, options: DownloadOptions) -> ModelFacts | None:
    """Return the facts of the model that `ref`, an expanded one, names on a hub or by its URL.

    None if it is small, or if its server does not give the headers: not every one gives parts.

    Raises:
        ConfigurationError: The network must not be used.
        ModelNotFoundError: There is no such model, revision or file.
        ModelFileError: It has no weights that may be loaded, or a file is damaged.
        ModelFetchError: The server cannot be reached, refuses, or answers nonsense.
    """
    from openllm.models.hub import offered

    remote, files = offered(ref, options)
    if sum(file.size for file in files) < WORTH_ASKING or any(file.size < 0 for file in files):
        return None
    retries = min(options.download_retries, _RETRIES)
    try:
        quick = options.model_copy(update={"download_retries": retries})
        return facts_of_remote(remote, files, quick)
    except ModelFetchError as error:
        logger.info("%s: its memory is checked after the download (%s)", ref, error.message)
        return None
