"""One benchmark from first contact to the last round, for one server or two in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import orjson
from msgspec import Struct, field

from openllm.bench.http_client import HttpClient, RequestError, Response, Target
from openllm.bench.load import Sender, run_load
from openllm.bench.settings import BenchSettings, RequestRecord
from openllm.bench.stream import error_message
from openllm.bench.workload import PromptFit, jobs
from openllm.errors import InvalidRequestError, OpenLLMError

Progress = Callable[[str], None]

_REFUSALS = frozenset({"http_400", "http_404", "http_413", "http_422"})
"""What a server answers to a request that is wrong as written, or names no model of its."""


class Round(Struct):
    """Records of one round; `start` in seconds since the run began."""

    number: int
    start: float
    duration: float = 0.0
    records: list[RequestRecord] = field(default_factory=list)


class Side(Struct):
    """One server under test; an empty `model` means the first that it lists."""

    label: str
    target: Target
    model: str = ""
    rounds: list[Round] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The model's name without the folder, where the server names it by its path."""
        return self.model.rsplit("/", 1)[-1] if self.model.startswith("/") else self.model

    @property
    def records(self) -> list[RequestRecord]:
        return [record for one in self.rounds for record in one.records]


class Run(Struct):
    """A benchmark as far as it got, so that an interrupted one can still be reported."""

    settings: BenchSettings
    sides: list[Side]
    fit: PromptFit = field(default_factory=PromptFit)
    interrupted: bool = False


async def run_bench(run: Run, progress: Progress = lambda _: None) -> None:
    """Find the models, warm up, and run every round on each side in turn; fills `run`.

    Raises:
        OpenLLMError: A server cannot be reached or refuses the warm-up; one sentence says why.
    """
    _raise_file_limit()
    settings = run.settings
    clients = [HttpClient(side.target, keep_alive=settings.keep_alive) for side in run.sides]
    pairs = list(zip(run.sides, clients, strict=True))
    try:
        for side, client in pairs:
            side.model = await find_model(client, side.model)
        for side, client in pairs:
            progress(f"warming up {side.target.url} (model {side.model})")
            await _warm_up(run, side, client)
        origin = time.perf_counter()
        for number in range(settings.rounds):
            for side, client in pairs:
                progress(f"round {number + 1} of {settings.rounds}: {side.target.url}")
                await _round(run, side, client, number, origin)
    finally:
        for client in clients:
            client.close()


async def find_model(client: HttpClient, wanted: str = "") -> str:
    """Return `wanted`, or the first model the server lists; proves that the server answers.

    Raises:
        OpenLLMError: It cannot be reached, refuses the key, or lists no model.
    """
    url = f"{client.target.url}/models"
    try:
        response = await client.get("/models")
    except RequestError as exc:
        raise OpenLLMError(
            f"cannot reach {client.target.url}: {exc.message}; is the server running there?"
        ) from exc
    if response.status in (401, 403):
        raise OpenLLMError(
            f"{url} answered {response.status}: {_reason(response)}; "
            "give the right key with --api-key or OPEN_LLM_API_KEY"
        )
    if wanted:
        return wanted
    if response.status != 200:
        raise OpenLLMError(
            f"{url} answered {response.status}; the base URL usually ends in /v1, "
            "and --model names the model where a server does not list them"
        )
    return _first_model(response, url)


def failure(what: str, record: RequestRecord) -> OpenLLMError:
    """Return the error that says `what` has failed, and why that one request did."""
    kind = InvalidRequestError if record.error in _REFUSALS else OpenLLMError
    return kind(f"{what}: {record.detail}")


def _first_model(response: Response, url: str) -> str:
    with suppress(orjson.JSONDecodeError, LookupError, TypeError):
        name = orjson.loads(response.body)["data"][0]["id"]
        if isinstance(name, str) and name:
            return name
    raise OpenLLMError(f"{url} lists no model; load one on the server, or name one with --model")


async def _warm_up(run: Run, side: Side, client: HttpClient) -> None:
    sender = Sender(client, side.model, run.settings, time.perf_counter())
    for job in jobs(run.settings, -1, run.fit):
        record = await sender.send(job)
        if record.error:
            raise failure(f"{side.target.url} failed the warm-up", record)
        if record.prompt_tokens and len(run.fit.seen) < 2 and not run.settings.prompts:
            run.fit.learn(len(job.prompt.split()), record.prompt_tokens)


async def _round(run: Run, side: Side, client: HttpClient, number: int, origin: float) -> None:
    sender = Sender(client, side.model, run.settings, origin)
    begin = time.perf_counter()
    one = Round(number=number, start=begin - origin)
    side.rounds.append(one)
    work = jobs(run.settings, number, run.fit)
    try:
        await run_load(sender, work, one.records.append, number)
    finally:
        one.duration = time.perf_counter() - begin


def _reason(response: Response) -> str:
    try:
        return error_message(orjson.loads(response.body))
    except orjson.JSONDecodeError:
        return "no reason given"


def _raise_file_limit() -> None:
    """Let this process open as many connections as the system allows it."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
