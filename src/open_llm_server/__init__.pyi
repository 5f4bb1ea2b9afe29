from typing import Any

from openllm._version import __version__ as __version__
from openllm.bento.launch import start as start
from openllm.bento.registry import LLMModel as LLMModel
from openllm.bento.registry import import_model as import_model
from openllm.bento.runnable import LLMRunnable as LLMRunnable
from openllm.bento.runners import get_runner as get_runner
from openllm.models.registry import Registry as _Registry

Registry: _Registry

def __getattr__(family: str) -> Any: ...
def __dir__() -> list[str]: ...
