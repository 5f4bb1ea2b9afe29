from openllm._version import __version__ as __version__
from openllm.bento.launch import start as start
from openllm.llm.legacy import ModelClass
from openllm.llm.legacy import Runner as Runner
from openllm.llm.llm import LLM as LLM
from openllm.llm.output import CompletionChunk as CompletionChunk
from openllm.llm.output import GenerationOutput as GenerationOutput
from openllm.models.registry import Registry as _Registry
from openllm.types import Message as Message
from openllm.types import SamplingParams as SamplingParams

Registry: _Registry

AutoLLM: ModelClass
AutoVLLM: ModelClass
AutoTFLLM: ModelClass
AutoFlaxLLM: ModelClass

def __dir__() -> list[str]: ...
