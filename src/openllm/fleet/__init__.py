"""Several models at once: starting, queueing, restarting and reporting. Knows no protocol."""

from openllm.fleet.fleet import Fleet, Replaced
from openllm.fleet.served import ModelStatus, ServedModel

__all__ = ["Fleet", "ModelStatus", "Replaced", "ServedModel"]
