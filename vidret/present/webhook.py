"""Results posted to a URL as JSON."""

import json
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from vidret.errors import VidretError

WEBHOOK_TIMEOUT_S = 10.0


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, which could send results elsewhere."""

    def redirect_request(self, *_arguments: Any, **_options: Any) -> None:
        """Return no request: the redirect is an error."""


def check_webhook(url: str) -> None:
    """Check a URL before anything is computed for it.

    Raises:
        VidretError: It is no http or https URL with a host.
    """
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as an invalid port
        is_valid = False
    if not is_valid:
        raise VidretError(f"webhook must be a URL like http://127.0.0.1:9000/found, got {url}")


def post_json(url: str, content: Mapping[str, Any], *, timeout_s: float = WEBHOOK_TIMEOUT_S) -> None:
    """Post an object as JSON, without following redirects.

    Raises:
        VidretError: The URL is invalid, does not answer in time, or answers with an error.
    """
    check_webhook(url)
    body = json.dumps(content).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout_s):
            pass
    except (OSError, HTTPException) as error:  # urllib's own errors are OSErrors
        raise VidretError(
            f"webhook: {urlsplit(url).netloc.rpartition('@')[2]} did not take the matches: {error}"
        ) from error
