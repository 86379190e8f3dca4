"""Tests of the metrics, parsed as by Prometheus."""

from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from vidret.engine import Engine


def read(client: TestClient) -> dict[str, float]:
    """Return the value of each series by its name and labels."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    return {" ".join([measured.name, *sorted(measured.labels.values())]): measured.value for measured in samples}


def test_requests_and_batches_are_counted_and_the_index_is_measured(client: TestClient, engine: Engine) -> None:
    for path in ("/api/videos/1", "/api/videos/2", "/api/videos/99", "/no", "/such", "/page/main.js"):
        client.get(path)
    for query in ("red", "blue", " "):
        client.post("/api/search", json={"query": query})
    for index in range(3):
        assert client.request(f"MADE-UP-{index}", "/healthz").status_code == 405
    values, info = read(client), engine.info()
    assert values["vidret_requests_total /api/videos/{id} 200"] == 2
    assert values["vidret_requests_total /api/videos/{id} 404"] == 1
    assert values["vidret_request_seconds_count /api/videos/{id}"] == 3
    assert values["vidret_requests_total 404 other"] == 2
    assert values["vidret_requests_total 200 other"] == 1
    assert [name for name in values if "such" in name or "MADE-UP" in name] == []
    assert values["vidret_searches_total"] == 3
    assert (values["vidret_batch_size_count"], values["vidret_batch_size_sum"]) == (3, 3)
    assert values["vidret_queue_depth"] == 0
    assert (values["vidret_index_videos"], values["vidret_index_segments"]) == (info.videos, info.searchable)
    assert values["vidret_index_bytes"] > 0
