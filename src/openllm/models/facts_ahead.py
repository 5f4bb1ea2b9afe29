"""What a model that is not here needs memory for, where asking costs little beside a download.

What is fetched for the answer is the beginning of the download, which goes on behind it.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from openllm.config.download import DownloadOptions
from openllm.errors import ModelFetchError, ModelFileError
from openllm.models.facts import ModelFacts, facts_of_remote
from openllm.models.ref import ModelRef, shown_source

if TYPE_CHECKING:
    from openllm.models.pull_plan import Plan

logger = logging.getLogger("openllm")

WORTH_ASKING = 32 << 20
"""Bytes of a download: a smaller one is there about as soon as its headers."""
_RETRIES = 1


def facts_ahead(ref: ModelRef, options: DownloadOptions) -> ModelFacts | None:
    """Return the facts of the model that `ref`, an expanded one, names on a hub or by its URL.

    None, for not known yet, if it is small, if another process is downloading or asking, if the
    disk has no room for it, or if its server does not give the headers: not every one gives parts.

    Raises:
        ConfigurationError: The network must not be used.
        ModelNotFoundError: There is no such model, revision or file.
        ModelFileError: It has no weights that may be loaded, a file is damaged, or its hash is not
            the one asked for.
        ModelFetchError: The server cannot be reached, refuses, or answers nonsense.
    """
    from openllm.models.offers import offered
    from openllm.models.pull_pins import pinned
    from openllm.models.pull_plan import Plan

    remote, files = offered(ref, options)
    if sum(file.size for file in files) < WORTH_ASKING or any(file.size < 0 for file in files):
        return None
    quick = {"download_retries": min(options.download_retries, _RETRIES)}
    brief = options.model_copy(update=quick)
    plan = Plan(ref, remote, pinned(files, options), brief, threading.Event())
    try:
        return _begun(plan)
    except (ModelFetchError, OSError) as error:
        logger.info(
            "%s: its memory is checked after the download (%s)", shown_source(str(ref)), error
        )
        return None


def _begun(plan: Plan) -> ModelFacts | None:
    """Return the facts, with what is fetched for them in the folder of the download."""
    from openllm.models import store
    from openllm.models.offers import look_at
    from openllm.models.pull_cache import link_cached
    from openllm.models.pull_room import Room

    folder = plan.folder
    lead = store.lead(store.lock_of(folder))
    if lead is None:
        return None
    with store.working(folder, lead):
        if plan.stored() is not None:  # By a process that has just ended.
            return None
        link_cached(plan, folder)
        Room(plan, folder).check_disk(plan.total)
        look_at(folder)
        try:
            return facts_of_remote(plan.remote, plan.files, plan.options, folder=folder)
        except ModelFileError:
            # What was on the disk may be damaged, which the download finds: asked again.
            return facts_of_remote(plan.remote, plan.files, plan.options)
