"""`openllm start` of models that it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from openllm.bento import launch
from openllm.bento.options import read_configuration
from openllm.config.effective import Configuration
from openllm.errors import OpenLLMError
from openllm.models.store import stored


def configured(models: str, **options: Any) -> Configuration:
    return read_configuration(models, options, {})


def refusal(models: str, **options: Any) -> str:
    """Return what `openllm start` says, which must not have fetched anything."""
    with pytest.raises(OpenLLMError) as raised:
        launch.run(configured(models, port=0, **options), lambda: configured(models))
    assert stored() == ()
    return raised.value.message
