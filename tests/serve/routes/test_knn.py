"""Tests of the API of clip-retrieval, with the requests of its ClipClient."""

import json
from typing import Any

from starlette.testclient import TestClient

from tests.serve.conftest import BLUE, check_refusal
from vidret.engine import Engine

# A request of ClipClient 2.45: every field, unused ones null.
PAYLOAD = {
    "text": None,
    "image": None,
    "image_url": None,
    "embedding_input": None,
    "deduplicate": True,
    "use_safety_model": True,
    "use_violence_detector": True,
    "indice_name": "index",
    "use_mclip": False,
    "aesthetic_score": 9,
    "aesthetic_weight": 0.5,
    "modality": "image",
    "num_images": 40,
    "num_result_ids": 40,
}


def ask(client: TestClient, **fields: Any) -> Any:
    """Send a request as the requests library does with ``data=``: without a Content-Type."""
    answer = client.post("/knn-service", content=json.dumps({**PAYLOAD, **fields}))
    assert "content-type" not in answer.request.headers
    return answer


def test_text_query_has_the_format_of_clip_retrieval(client: TestClient, engine: Engine) -> None:
    rows, hits = ask(client, text="red").json(), engine.search("red")
    assert [row["id"] for row in rows] == [hit.video for hit in hits]
    assert [row["similarity"] for row in rows] == [hit.score for hit in hits]
    best = hits[0]
    assert set(rows[0]) == {"id", "similarity", "url", "caption"}
    assert rows[0]["url"] == f"http://localhost/api/videos/{best.video}/stream#t={best.time:g}"
    assert rows[0]["caption"] == "red"
    assert client.get(rows[0]["url"]).headers["content-type"] == "video/mp4"
    assert client.get("/indices-list").json() == ["index"]
    assert ask(client, image=BLUE).json()[0]["caption"] == "blue"
    rows = ask(client, text="red", num_images=1, num_result_ids=3).json()
    assert [set(row) for row in rows] == [{"id", "similarity", "url", "caption"}, *[{"id", "similarity"}] * 2]


def test_unsupported_requests_are_refused(client: TestClient) -> None:
    for asked, status, sentence in (
        ({"image_url": "http://169.254.169.254/"}, 400, "got image_url: URLs are not fetched"),
        ({"embedding_input": [0.1, 0.2]}, 422, "vector must have 3 numbers and a finite length above 0, got 2"),
        ({"embedding_input": [0, 0, 0]}, 422, "vector must have 3 numbers and a finite length above 0, got 3 and 0"),
        ({}, 400, "text, image or embedding_input must be given, got none"),
        ({"text": ""}, 400, "text, image or embedding_input must be given, got none"),
        ({"text": "red", "modality": "text"}, 400, "modality must be image, got text"),
        ({"text": "red", "indice_name": "laion5B"}, 404, "indice_name must be index, got laion5B"),
        ({"text": "red", "num_result_ids": 0}, 422, "num_result_ids must be at least 1, got 0"),
        ({"embedding_input": [1, False, 0]}, 422, "embedding_input.1 must be a number, got False"),
        ({"text": "red", "num_images": True}, 422, "num_images must be a number, got True"),
        ({"text": "red", "num_result_ids": True}, 422, "num_result_ids must be a number, got True"),
        ({"image": "%"}, 422, "image must be base64"),
    ):
        check_refusal(ask(client, **asked), status, sentence)
