"""Ask a server, which loads no model here: python examples/http_client.py http://127.0.0.1:8000 "a dog" [TOKEN]."""

import sys

from vidret import RemoteEngine


def main(url: str, query: str, token: str | None = None) -> None:
    """Print what the server holds and finds."""
    with RemoteEngine(url, token) as engine:
        print(engine.info().videos, "videos")
        for moment in engine.locate(query, k=3):
            print(f"{moment.path}  {moment.start:.1f} to {moment.end:.1f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
