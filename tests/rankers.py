"""Rankers with golden weights, and their scores of stored segments."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.fakes import DIM, PatchEncoder
from tests.goldens import find_cases
from tests.store.samples import add_segment
from vidret.align.batches import collate_segments, collate_texts
from vidret.align.files import CARD, convert_aligner, convert_concepts, describe_aligner
from vidret.align.glscl import ConceptAligner
from vidret.align.ucofia import Aligner
from vidret.align.ucofia_selection import PatchSelector
from vidret.channels.picture.ranker_loading import load_ranker
from vidret.channels.picture.ranking import Levels, Ranker
from vidret.encode.encoder import Encoder
from vidret.store.snapshots.bitmap import Ids
from vidret.store.store import Store
from vidret.types import SegmentEmbedding, TextEmbedding


def make_published_weights(method: str) -> dict[str, Tensor]:
    """Return a complete published checkpoint: golden weights, and a CLIP with a full vocabulary."""
    clip = {name: weight for name, weight in find_cases("ucofia")[0].weights.items() if name.startswith("clip.")}
    name = "clip.token_embedding.weight"
    words = torch.randn(49408, clip[name].shape[1], generator=torch.Generator().manual_seed(0))
    return find_cases(method)[0].weights | clip | {name: words * clip[name].std()}


def convert_golden(method: str) -> Aligner | ConceptAligner:
    """Return the trained aligner of a golden."""
    convert = convert_aligner if method == "ucofia" else convert_concepts
    return convert(find_cases(method)[0].weights)


def save_aligner(aligner: Aligner | ConceptAligner, path: Path) -> None:
    """Write a trained aligner to a file of its own, which ``load_aligner`` reads."""
    part = describe_aligner(aligner)
    weights = {name: weight.detach().contiguous() for name, weight in part.weights.items()}
    save_file(weights, path, metadata={CARD: json.dumps(part.card)})


def make_ranker(kind: str, folder: Path, *, tokens: str = "float16", encoder: Encoder | None = None) -> Ranker:
    """Return a ranker by its name, or a trained one as in ``trained ucofia``, whose aligner is saved in a folder."""
    trained, _, method = kind.rpartition(" ")
    name = kind
    if trained:
        name = str(folder / f"{method}.safetensors")
        save_aligner(convert_golden(method), Path(name))
    return load_ranker(name, encoder or PatchEncoder(), tokens=tokens)


def score_directly(
    kind: str, texts: Sequence[TextEmbedding], segments: Sequence[SegmentEmbedding]
) -> tuple[list[Tensor], Tensor]:
    """Return the levels of an aligner, in the unit of cosines, and the best frames, without packing anything."""
    trained, _, method = kind.rpartition(" ")
    raw = bool(trained)
    queries, videos = collate_texts(texts, raw=raw), collate_segments(segments, raw=raw)
    with torch.no_grad():
        if method == "glscl":
            concepts = convert_golden(method) if raw else ConceptAligner()
            assert isinstance(concepts, ConceptAligner)
            output = concepts.score(queries, concepts.prepare(videos))
            return [output.pooled, output.shared][: 1 + raw], output.best_frame
        aligner = convert_golden(method) if raw else Aligner(selector=PatchSelector())
        assert isinstance(aligner, Aligner)
        *levels, best = aligner.eval().score(queries, aligner.prepare(videos))
        return [level / aligner.logit_scale.exp() for level in levels], best


def store_all(path: Path, segments: Sequence[SegmentEmbedding], packed: Sequence[bytes]) -> list[int]:
    """Write an index with one video per segment, and return the ids of the segments."""
    ids = []
    with Store.create(path, encoder_name="patches", encoder_fingerprint="patches-1", dim=DIM) as store:
        for index, (segment, tokens) in enumerate(zip(segments, packed, strict=True)):
            video_id = store.writer.begin_video(str(index), duration=9.0, facts={}, num_segments=1)
            store.writer.set_file(f"/{index}.mp4", state="done", video=video_id)
            ids.append(add_segment(store, video_id, 0, 0.0, 9.0, segment, tokens=tokens))
            store.writer.finish_video(video_id)
    return ids


def score_stored(
    path: Path, ranker: Ranker, texts: Sequence[TextEmbedding], ids: Sequence[int] | Ids, *, bare: bool = False
) -> Levels:
    """Return the levels of stored segments; ``bare`` ignores their tokens, which another ranker packed."""
    with Store.open(path) as store:
        packed = [b""] * len(ids) if bare else store.features.read_tokens(ids)
        return ranker.score(texts, packed, [frames for frames, _ in store.features.read_frames(ids)])
