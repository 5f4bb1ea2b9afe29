"""How long OpenMP's threads spin before they sleep while they wait for each other.

GNU OpenMP, which PyTorch uses, spins without an end by default: another program on the same core
then makes a step 20 to 50 times slower. Sleeping at once costs 1.8 times the time of a step of a
135 M model on a quiet machine. 2,000 turns cost nothing there, and keep a contended step within
about twice that of threads that sleep.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

SPINS = "GOMP_SPINCOUNT"


def waiting(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables to set before PyTorch is first imported; what the user has set stays."""
    if "OMP_WAIT_POLICY" in environ:
        return {}
    return {SPINS: environ.get(SPINS, "2000")}
