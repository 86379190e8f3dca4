"""CLIP's tokenizer, which is made once for all models of these tests."""

from collections.abc import Iterator
from functools import cache

import pytest


@pytest.fixture(scope="session", autouse=True)
def tokenizers() -> Iterator[None]:
    """Make equal tokenizers once: each model reads the word pieces again, for 0.1 s."""
    from open_clip import factory

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "SimpleTokenizer", cache(factory.SimpleTokenizer))
        yield
