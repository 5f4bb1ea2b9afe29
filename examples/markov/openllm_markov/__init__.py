"""What the entry points of this package name; the engine itself is imported when it is used."""

from __future__ import annotations

from importlib.resources import files

from openllm.engines import EngineKind
from openllm.models.registry import Registry

MARKOV = EngineKind("openllm_markov.engine:MarkovEngine", formats=("other",))


def register(registry: Registry) -> None:
    """Add this package's models; called with the registry of the process."""
    text = str(files("openllm_markov") / "tales" / "tales.txt")
    settings: dict[str, object] = {"backend": "markov", "temperature": 0.7}
    registry.add_model("tales", text, format="other", defaults=settings)

    @registry.add_model(model_name="chain")
    class Chain:
        """The same, as a class."""

        source = "tales"
        defaults = {"temperature": 0.0}  # noqa: RUF012
