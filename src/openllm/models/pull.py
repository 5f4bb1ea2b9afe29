"""A model, from a hub or a URL into the store: looked up, downloaded once, checked, stored.

One process downloads a model, under a lock; others wait and take over if it dies. What has arrived
stays in a folder of the store until the model is complete, so any process goes on from there.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from openllm.config.download import DownloadOptions
from openllm.errors import ModelFetchError, ModelFileError, OpenLLMError
from openllm.models import store
from openllm.models.hub import RemoteFile
from openllm.models.offers import offered
from openllm.models.pull_cache import link_cached
from openllm.models.pull_junk import check_weights
from openllm.models.pull_pins import check_pin, pinned
from openllm.models.pull_plan import Plan
from openllm.models.pull_room import Room, arrived
from openllm.models.ref import ModelRef, shown_source
from openllm.models.store import ModelRecord, StoredFile, StoredModel
from openllm.models.transfer import Watch, disk_error, fetch_file
from openllm.models.transfer_http import Session
from openllm.models.transfer_retry import Pace
from openllm.models.transfer_stop import stoppable, stopped
from openllm.types import ModelFormat

Phase = Literal["listing", "waiting", "downloading", "verifying", "done"]

_POLL = 0.25
_REPORT_EVERY = 0.1


class Progress(msgspec.Struct, frozen=True):
    """How far a download is.

    Attributes:
        phase: What is being done; "waiting" while another process downloads the same model.
        source: The model, as the hub or the URL names it, without what may be secret.
        file: The file of which bytes have just arrived, "" if none.
        done: Bytes of the whole model that are here.
        total: Bytes of the whole model, 0 while that is unknown.
    """

    phase: Phase
    source: str
    file: str = ""
    done: int = 0
    total: int = 0


OnProgress = Callable[[Progress], None]
Framework = Callable[[str, ModelFormat], str]


def pull(
    ref: ModelRef,
    options: DownloadOptions,
    *,
    framework: Framework,
    on_progress: OnProgress | None = None,
    cancelled: threading.Event | None = None,
) -> StoredModel:
    """Download what `ref` names into the store, unless it is there; blocks.

    Args:
        ref: A hub id or a URL.
        options: Where from and how.
        framework: Takes the architecture ("" if there is none) and the format, and returns what the
            tag begins with; raises if nothing runs the model, before its weights are downloaded.
        on_progress: Called some ten times a second, from several threads, one at a time.
        cancelled: When set, this raises within a second; what has arrived is kept.

    Raises:
        ConfigurationError: The network must not be used, or no engine runs the model.
        ModelNotFoundError: There is no such model, revision or file.
        ModelFileError: It has no weights that may be loaded, or its hash is not the one asked for.
        ModelFetchError: The server, the network or the disk failed; says what to do.
    """
    report = on_progress or (lambda _: None)
    report(Progress("listing", shown_source(ref.origin)))
    remote, files = offered(ref, options, cancelled)
    files = pinned(files, options)
    plan = Plan(ref, remote, files, options, cancelled or threading.Event())
    if (known := plan.stored()) is not None:
        return _done(plan.named(known), report)
    before = _of_url(plan)
    with _leadership(plan, report) as shared:
        if (known := plan.stored() or (_newer(plan, before) if shared else None)) is not None:
            return _done(plan.named(known), report)
        return _done(_download(plan, framework, report), report)


def _of_url(plan: Plan) -> StoredModel | None:
    """Return what the store has of a URL, which may be what it had once."""
    return None if plan.remote.commit else store.find(plan.remote.source)


def _newer(plan: Plan, before: StoredModel | None) -> StoredModel | None:
    """Return what the process that we waited for has stored of a URL; None if it failed.

    Raises:
        ModelFileError: Its hash is not the one asked for.
    """
    found = _of_url(plan)
    if found is None or found == before:
        return None
    check_pin(found, plan.options)
    return found


@contextmanager
def _leadership(plan: Plan, report: OnProgress) -> Iterator[bool]:
    """Hold the lock of the download; whoever waits for it says how far the holder is.

    Yields whether another process has ended its work on this download while we waited.
    """
    folder = plan.folder
    while (lead := store.lead(store.lock_of(folder))) is None:
        report(Progress("waiting", plan.remote.shown, "", arrived(folder), plan.total))
        if plan.cancelled.wait(_POLL):
            raise stopped()
    with store.working(folder, lead):
        yield not folder.exists()


@contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    """Leave nothing of a model that is refused; what an interrupted download has left stays."""
    try:
        yield
    except OpenLLMError:
        store.forget(folder)
        raise


def _download(plan: Plan, framework: Framework, report: OnProgress) -> StoredModel:
    folder = plan.folder
    room = Room(plan, folder)
    watch = Watch(Pace(plan.options.download_rate), _Reporter(plan, report), room.check_growth)
    try:
        link_cached(plan, folder)
        with _refusing(folder):
            room.check(plan.known)
        with Session(plan.options, plan.remote.home(plan.options)) as session:
            config = [one for one in plan.files if one.name == "config.json"]
            hashes = _fetch_all(session, config, folder, watch, plan)
            with _refusing(folder):
                prefix = framework(_architecture(folder), plan.format)
            store.begin(folder)
            rest = [one for one in plan.files if one not in config]
            hashes |= _fetch_all(session, rest, folder, watch, plan)
        report(Progress("verifying", plan.remote.shown, "", plan.total, plan.total))
        return _store(plan, prefix, folder, hashes)
    except FileNotFoundError as error:
        # Where locks do not hold, another process may have finished and tidied up.
        if (known := plan.stored()) is None:
            raise ModelFetchError(f"{folder} vanished during the download; try again") from error
        return known
    except OSError as error:
        raise disk_error(error, folder) from error


def _fetch_all(
    session: Session, files: Sequence[RemoteFile], folder: Path, watch: Watch, plan: Plan
) -> dict[str, str]:
    """Fetch files side by side; returns their hashes. The first error stops the others."""
    if not files:
        return {}
    ordered = sorted(files, key=lambda one: one.size)  # What is small and wrong shows first.

    def work() -> dict[str, str]:
        with ThreadPoolExecutor(plan.options.download_parallel, "openllm-download") as pool:
            jobs: dict[str, Future[str]] = {
                one.name: pool.submit(fetch_file, session, one, folder, watch) for one in ordered
            }
            done = wait(jobs.values(), return_when=FIRST_EXCEPTION).done
            if error := next((job.exception() for job in done if job.exception()), None):
                session.halt.call()
                pool.shutdown(wait=False, cancel_futures=True)
                raise error
            return {name: job.result() for name, job in jobs.items()}

    return stoppable(work, session.halt, plan.cancelled)


def _store(plan: Plan, prefix: str, folder: Path, hashes: dict[str, str]) -> StoredModel:
    remote = plan.remote
    _refuse_junk(plan, folder)
    files = (
        StoredFile(one.name, (folder / one.name).stat().st_size, hashes[one.name])
        for one in plan.files
    )
    record = ModelRecord(
        format=plan.format,
        source=remote.source,
        revision=remote.commit,
        file=plan.file,
        refs=plan.refs,
        files=tuple(files),
    )
    name, version = store.derived_parts(prefix, record)
    with store.dividing():  # Of the quota it has its part once, as promised or as stored.
        model = store.add(folder, record, name=name, version=version)
        (folder / store.PROMISED).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    return model


def _refuse_junk(plan: Plan, folder: Path) -> None:
    """Discard a download with weights that are none: to go on with it would bring the same."""
    try:
        for one in plan.files:
            check_weights(folder / one.name)
    except ModelFileError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _architecture(folder: Path) -> str:
    try:
        config = msgspec.json.decode((folder / "config.json").read_bytes())
        names = config.get("architectures") if isinstance(config, dict) else None
        return str(names[0]) if isinstance(names, list) and names else ""
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return ""  # A GGUF file has none; a damaged one is named when the folder is read.


def _done(model: StoredModel, report: OnProgress) -> StoredModel:
    store.touch(model)
    report(Progress("done", shown_source(model.source), "", model.size, model.size))
    return model


class _Reporter:
    """Adds up the bytes of all files and passes them on, some ten times a second."""

    def __init__(self, plan: Plan, report: OnProgress) -> None:
        self._plan = plan
        self._report = report
        self._done: dict[str, int] = {}
        self._lock = threading.Lock()
        self._next = 0.0

    def __call__(self, file: str, done: int) -> None:
        with self._lock:
            self._done[file] = done
            now = time.monotonic()
            if now < self._next:
                return
            self._next = now + _REPORT_EVERY
            total = sum(self._done.values())
            self._report(
                Progress("downloading", self._plan.remote.shown, file, total, self._plan.total)
            )
