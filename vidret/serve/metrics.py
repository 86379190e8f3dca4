"""Metrics of the server in the format of Prometheus."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vidret.store.records import StoreInfo

MEDIA_TYPE = CONTENT_TYPE_LATEST
DURATION_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
NO_ROUTE = "other"  # label of paths without a route, so that the number of series is bounded


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("vidret_requests", "Responses.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "vidret_request_seconds",
            "Time to the first byte of a response.",
            ["route"],
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        self.searches = Counter("vidret_searches", "Searches.", registry=registry)
        self.batches = Histogram("vidret_batch_size", "Searches per batch.", buckets=BATCH_BUCKETS, registry=registry)
        self.queue = Gauge("vidret_queue_depth", "Requests that wait for the engine.", registry=registry)
        self._videos = Gauge("vidret_index_videos", "Videos in the index.", registry=registry)
        self._segments = Gauge("vidret_index_segments", "Searchable segments in the index.", registry=registry)
        self._bytes = Gauge("vidret_index_bytes", "Size of the index on disk.", registry=registry)

    def count_batch(self, size: int) -> None:
        """Count a batch of searches."""
        self.searches.inc(size)
        self.batches.observe(size)

    def render(self, info: StoreInfo) -> bytes:
        """Return all metrics as text, with the current state of the index."""
        self._videos.set(info.videos)
        self._segments.set(info.searchable)
        self._bytes.set(info.num_bytes)
        return generate_latest(self._registry)


class MetricsMiddleware:
    """Counts the requests of an app."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, and count its response by route and status."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                matched_route = scope.get("route")  # for files of the page, some versions of FastAPI set a mount
                route = NO_ROUTE if isinstance(matched_route, Mount) else getattr(matched_route, "path", NO_ROUTE)
                self._metrics.requests.labels(route, message["status"]).inc()
                self._metrics.seconds.labels(route).observe(time.perf_counter() - started)
            await send(message)

        await self._app(scope, receive, count)
