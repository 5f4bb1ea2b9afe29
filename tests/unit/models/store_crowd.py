"""A program of a crowd that changes one store: `python -m tests.unit.models.store_crowd WHAT`.

`add` adds the same models as the others; `churn` adds and removes them, many times; `read` reads
until its standard input ends, and fails if it ever sees half a model. With NO_LOCKS in the
environment the kernel's locks do nothing, as on some network file systems.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import sys
from contextlib import suppress

from openllm.errors import ModelNotFoundError
from openllm.models import store
from tests.unit.models.store_models import SHARDS, added

NAMES = [f"pt-org--model{number}" for number in range(3)]
ROUNDS = 25


def add() -> None:
    for name in NAMES:
        assert store.verify(added(name).tag) == ()


def churn() -> None:
    for _ in range(ROUNDS):
        model = added(random.choice(NAMES), version=random.choice("123"))
        with suppress(ModelNotFoundError):
            store.remove(model.tag)
        store.collect(quota=random.choice([0, None]))


def read() -> None:
    print("reading", flush=True)
    while not select.select([sys.stdin], [], [], 0.005)[0]:
        for model in store.stored():
            assert len(model.files) == len(SHARDS), model


if __name__ == "__main__":
    if os.environ.get("NO_LOCKS"):
        fcntl.flock = lambda *_: None
    {"add": add, "churn": churn, "read": read}[sys.argv[1]]()
