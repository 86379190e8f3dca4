"""Loading of a grounding head for an index, by what its card says that it reads."""

from pathlib import Path

from vidret.encode.encoder import Encoder
from vidret.ground.checkpoint import VECTORS, read_head_card
from vidret.ground.universalvtg import is_universal
from vidret.search.heads.base import MomentHead
from vidret.search.heads.frames import FrameGrounder
from vidret.search.heads.layers import Grounder
from vidret.search.heads.vectors import VectorGrounder


def load_moment_head(path: Path, encoder: Encoder, folder: Path, *, tokens: str, device: str) -> MomentHead:
    """Load a grounding head for an index with a folder of prepared videos, whose tokens have a format.

    Raises:
        VidretError: The head cannot be loaded, or does not match the encoder.
    """
    if is_universal(path):
        return FrameGrounder(path, folder, device=device)
    if read_head_card(path).reads == VECTORS:
        return VectorGrounder(path, encoder, device=device)
    return Grounder(path, encoder, folder, tokens=tokens, device=device)
