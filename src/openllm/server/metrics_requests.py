"""Counts of HTTP requests by route, model and status. Knows no format.

A label is a route of ours or the name of a served model, never anything that a client made up: the
number of counters is bounded, and no request's content gets among them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from openllm.fleet.measure_histogram import Histogram
from openllm.fleet.measures import SECONDS

_CONVERTOR = re.compile(r":\w+(?=\})")


class RequestMeasures:
    """The totals since the start.

    Attributes:
        counts: Requests by route, model and status; "" is no route of ours, or no served model.
        seconds: Time from the headers of a request to the end of its answer, by route and model.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.seconds: dict[tuple[str, str], Histogram] = {}
        self._paths: dict[str, str] = {}
        self._patterns: list[tuple[re.Pattern[str], str]] = []

    def know(self, routes: Iterable[BaseRoute]) -> None:
        """Count by these routes from now on."""
        ours = [route for route in routes if isinstance(route, Route)]
        # Whole at once: requests are counted meanwhile, from another thread.
        self._paths = {each.path: each.path for each in ours if not each.param_convertors}
        self._patterns = [
            (each.path_regex, _CONVERTOR.sub("", each.path))
            for each in ours
            if each.param_convertors
        ]

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request that has ended; `scope["state"]["model"]` is its model, if it has one."""
        route = self._route(scope["path"])
        model = scope["state"].get("model", "")
        self.counts[route, model, str(status)] += 1
        if (histogram := self.seconds.get((route, model))) is None:
            histogram = self.seconds[route, model] = Histogram(SECONDS)
        histogram.observe(seconds)

    def _route(self, path: str) -> str:
        if (known := self._paths.get(path)) is not None:
            return known
        return next((label for regex, label in self._patterns if regex.match(path)), "")
