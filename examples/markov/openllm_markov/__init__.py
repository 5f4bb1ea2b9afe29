"""What the entry points of this package name; the engine itself is imported when it is used."""

from __future__ import annotations

from importlib.resources import files

from openllm.engines import EngineKind
from openllm.models.registry import Registry

MARKOV = EngineKind(
    "openllm_markov.engine:MarkovEngine",
    formats=("other",),
    install="openllm-markov",
    options=("context_length", "max_concurrency"),  # What else a user sets for it is refused.
)

TALES = str(files("openllm_markov") / "tales" / "tales.txt")

# A row as in OpenLLM-Server's own table, which any package may keep as a JSON file.
FAMILY = {
    "name": "markov",
    "architecture": "MarkovChain",
    "architectures": [{"names": ["MarkovChain"], "runs_on": ["markov"]}],
    "example_id": TALES,
    "sizes": {"tales": TALES},
    "format": "other",
    "defaults": {"backend": "markov", "temperature": 0.9},
    "install": "openllm-markov",
}


def register(registry: Registry) -> None:
    """Add this package's models; called with the registry of the process."""
    settings: dict[str, object] = {"backend": "markov", "temperature": 0.7}
    registry.add_model("tales", TALES, format="other", defaults=settings)

    @registry.add_model(model_name="chain")
    class Chain:
        """The same, as a class."""

        source = "tales"
        defaults = {"temperature": 0.0}  # noqa: RUF012
