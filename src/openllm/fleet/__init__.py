"""Several models at once: starting, queueing, restarting and reporting. Knows no protocol."""

from openllm.fleet.fleet import Fleet
from openllm.fleet.served import ModelStatus

__all__ = ["Fleet", "ModelStatus"]
