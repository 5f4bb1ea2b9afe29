"""Whether the device that is asked for is on this machine, told before anything is loaded.

Neither llama.cpp nor CUDA is loaded into this process: a child asks llama.cpp what it sees.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from functools import cache

from openllm.config.model import LoadOptions, shown_device
from openllm.errors import ConfigurationError
from openllm.machine import free_cards

logger = logging.getLogger("openllm")

_SECONDS = 30.0
# Not "-m", which would look for modules in the current folder first.
_CODE = (
    "import sys; sys.path[:] = [each for each in sys.path if each]; "
    "from openllm.engines.llamacpp_devices import main; main()"
)


def check_device(engine: str, load: LoadOptions) -> None:
    """Check that `engine` has the device of `load`; of engines of others nothing is known.

    Raises:
        ConfigurationError: It is not on this machine, or the installed llama.cpp does not see it.
    """
    device = load.device or "cpu"
    if device == "cpu":
        return
    if engine == "llamacpp":
        _check_llamacpp(device)
    elif engine in ("torch", "vllm"):
        _check_cards(device)


def _check_cards(device: str) -> None:
    if device == "mps":
        if sys.platform != "darwin":
            raise _not_here(device, "only Macs have it")
        return
    cards = free_cards()
    if cards is not None and _number(device) >= len(cards):
        there = f"which has {len(cards)}, counted from 0" if cards else "which has no such card"
        raise _not_here(device, there)


def _check_llamacpp(device: str) -> None:
    seen = _seen_by_llamacpp()
    if seen is not None and _number(device) >= len(seen):
        there = f"the cards {', '.join(seen)}, counted from 0" if seen else "no card"
        raise _not_here(
            device,
            f"where the installed llama.cpp sees {there}",
            ", or install an xllamacpp built for your cards",
        )


def _seen_by_llamacpp() -> tuple[str, ...] | None:
    """Return the names of the GPUs that the installed llama.cpp sees; None if it does not say."""
    try:
        return _asked_llamacpp()
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        logger.info("llama.cpp does not say which cards it sees: %s", error)
        return None


@cache
def _asked_llamacpp() -> tuple[str, ...]:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", _CODE],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_SECONDS,
        check=True,
    )
    return tuple(str(name) for name in json.loads(done.stdout.splitlines()[-1]))


def _number(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def _not_here(device: str, why: str, otherwise: str = "") -> ConfigurationError:
    return ConfigurationError(
        f"--device {shown_device(device)} is not on this machine, {why}; give cpu, or leave it"
        f" out{otherwise}",
        param="device",
    )
