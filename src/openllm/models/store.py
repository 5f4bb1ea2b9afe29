"""The store of models: BentoML's, under BENTOML_HOME, read and written without loading BentoML.

A model lies at `models/<name>/<version>/` with BentoML's `model.yaml`, so that `bentoml models`
lists, exports, imports and deletes it as any other. This is the store's door; the rooms behind it
are `store_record` (what is written down), `store_find`, `store_change`, `store_check`,
`store_collect` and `store_lock`.
"""

from __future__ import annotations

from openllm.models.store_change import add, remember, remove, remove_unused, touch
from openllm.models.store_check import Damage, blamed, quick_check, remedy, verify
from openllm.models.store_collect import (
    PROMISED,
    SETTLED_SECONDS,
    Collected,
    Leftover,
    collect,
    lock_of,
    promised,
    staging,
)
from openllm.models.store_damaged import DamagedModel
from openllm.models.store_derived import derived_parts, derived_tag
from openllm.models.store_find import damaged, find, find_tag, of_source, stored
from openllm.models.store_lock import Hold, check_place, dividing, hold, lead
from openllm.models.store_record import StoredFile, StoredModel, home

__all__ = [
    "PROMISED",
    "SETTLED_SECONDS",
    "Collected",
    "Damage",
    "DamagedModel",
    "Hold",
    "Leftover",
    "StoredFile",
    "StoredModel",
    "add",
    "blamed",
    "check_place",
    "collect",
    "damaged",
    "derived_parts",
    "derived_tag",
    "dividing",
    "find",
    "find_tag",
    "hold",
    "home",
    "lead",
    "lock_of",
    "of_source",
    "promised",
    "quick_check",
    "remedy",
    "remember",
    "remove",
    "remove_unused",
    "staging",
    "stored",
    "touch",
    "verify",
]
