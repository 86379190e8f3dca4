"""What the server does, in numbers, as Prometheus reads them."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vidret.store.records import StoreInfo

KIND = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)
ELSEWHERE = "other"  # whatever has no route: any number of addresses must not make any number of series


class Metrics:
    """The numbers of one server."""

    def __init__(self) -> None:
        """Begin at zero."""
        self._registry = kept = CollectorRegistry()
        self.requests = Counter("vidret_requests", "Answers.", ["route", "status"], registry=kept)
        self.seconds = Histogram(
            "vidret_request_seconds", "Time to an answer's first byte.", ["route"], buckets=SECONDS, registry=kept
        )
        self.searches = Counter("vidret_searches", "Searches answered.", registry=kept)
        self.batches = Histogram("vidret_batch_size", "Searches answered together.", buckets=SIZES, registry=kept)
        self.queue = Gauge("vidret_queue_depth", "Questions that wait for the engine.", registry=kept)
        self._videos = Gauge("vidret_index_videos", "Videos in the index.", registry=kept)
        self._segments = Gauge("vidret_index_segments", "Segments that a search may return.", registry=kept)
        self._bytes = Gauge("vidret_index_bytes", "Size of the index on disk.", registry=kept)

    def count_batch(self, size: int) -> None:
        """Count searches that are answered together."""
        self.searches.inc(size)
        self.batches.observe(size)

    def tell(self, info: StoreInfo) -> bytes:
        """Write everything, the index as it is now."""
        self._videos.set(info.videos)
        self._segments.set(info.searchable)
        self._bytes.set(info.num_bytes)
        return generate_latest(self._registry)


class Measured:
    """An app of which every request is counted."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Wrap an app."""
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count its answer by route and status."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", ELSEWHERE)
                self._metrics.requests.labels(route, message["status"]).inc()
                self._metrics.seconds.labels(route).observe(time.perf_counter() - started)
            await send(message)

        await self._app(scope, receive, count)
