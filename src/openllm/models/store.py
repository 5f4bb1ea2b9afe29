"""The store of models: BentoML's, under BENTOML_HOME, read and written without loading BentoML.

A model lies at `models/<name>/<version>/` with BentoML's `model.yaml`, so that `bentoml models`
lists, exports, imports and deletes it as any other. This is the store's door; the rooms behind it
are `store_model` (what is known of a model), `store_record` (where that is written down),
`store_find`, `store_change`, `store_remember`, `store_check`, `store_staging` (what is being
downloaded), `store_collect` and `store_lock`.
"""

from __future__ import annotations

from openllm.models.store_change import add, remove, remove_unused
from openllm.models.store_check import Damage, blamed, quick_check, remedy, verify
from openllm.models.store_collect import SETTLED_SECONDS, Collected, collect
from openllm.models.store_damaged import DamagedModel
from openllm.models.store_derived import FOR_ADAPTERS, derived_parts, derived_tag
from openllm.models.store_find import damaged, find, find_tag, of_source, stored
from openllm.models.store_lock import Hold, check_place, dividing, hold, lead, told
from openllm.models.store_model import ModelRecord, StoredFile, StoredModel
from openllm.models.store_record import home
from openllm.models.store_remember import remember, touch
from openllm.models.store_staging import (
    PROMISED,
    Leftover,
    begin,
    forget,
    forget_look,
    lock_of,
    promised,
    staging,
    working,
)

__all__ = [
    "FOR_ADAPTERS",
    "PROMISED",
    "SETTLED_SECONDS",
    "Collected",
    "Damage",
    "DamagedModel",
    "Hold",
    "Leftover",
    "ModelRecord",
    "StoredFile",
    "StoredModel",
    "add",
    "begin",
    "blamed",
    "check_place",
    "collect",
    "damaged",
    "derived_parts",
    "derived_tag",
    "dividing",
    "find",
    "find_tag",
    "forget",
    "forget_look",
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
    "told",
    "touch",
    "verify",
    "working",
]
