"""What can be wrong with models, files and texts, found before a socket is bound or a model loaded.

Knows nothing of how anything is served.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from openllm.config.model import ModelConfig
from openllm.engines.scripted_rules import read_script
from openllm.llm.choice import choose_engine
from openllm.llm.preprompt import preprompt_text
from openllm.models.ref import check_files
from openllm.types import LocalModel

logger = logging.getLogger("openllm")

_LIKE_A_PATH = re.compile(r"\S*/\S*|\S*\.[A-Za-z0-9]{1,5}")


def check_models(models: Sequence[LocalModel], config: ModelConfig) -> None:
    """Check the files of every model, its engine, and the pre-prompt.

    Raises:
        ConfigurationError: A file or a setting is wrong.
        EngineNotInstalledError: A model needs a package that is missing.
    """
    for model in models:
        check_files(model, trust_remote_code=config.load.trust_remote_code)
        if model.format == "script":
            read_script(model.path)
        choose_engine(model, config.load)
    _check_preprompt(config.defaults.prompt)


def _check_preprompt(value: str | None) -> None:
    if value and preprompt_text(value) == value and _LIKE_A_PATH.fullmatch(value):
        logger.warning("--prompt %r: there is no such file, so these words are the prompt", value)
