"""Results posted to a URL as JSON."""

import json
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from vidret.endpoints.connection import open_post
from vidret.errors import VidretError

WEBHOOK_TIMEOUT_S = 10.0


def check_webhook(url: str) -> None:
    """Check a URL before anything is computed for it.

    Raises:
        VidretError: It is no http or https URL with a host and without a user.
    """
    try:
        parts = urlsplit(url)
        is_valid = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and parts.username is None
        )
    except ValueError:  # such as an invalid port
        is_valid = False
    if not is_valid:
        raise VidretError(f"webhook must be a URL like http://127.0.0.1:9000/found, got {url.rpartition('@')[2]}")


def post_json(url: str, content: Mapping[str, Any], *, timeout_s: float = WEBHOOK_TIMEOUT_S) -> None:
    """Post an object as JSON, without following redirects.

    Raises:
        VidretError: The URL is invalid, does not answer in time, or answers with an error.
    """
    check_webhook(url)
    sender = f"webhook: {urlsplit(url).netloc} did not take the matches"
    headers = {"Content-Type": "application/json"}
    try:
        with open_post(url, json.dumps(content).encode(), headers, timeout_s=timeout_s) as response:
            status, reason = response.status, response.reason
    except TimeoutError:
        raise VidretError(f"{sender}: no answer within {timeout_s:g} s") from None
    except (OSError, HTTPException) as error:
        raise VidretError(f"{sender}: {error}") from error
    if not 200 <= status < 300:
        raise VidretError(f"{sender}: it answered {status} {reason}")
