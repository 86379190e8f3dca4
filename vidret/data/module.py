"""Data for training, as a trainer takes it: a benchmark's annotations and a folder of videos -> batches.

    data = RetrievalData("msrvtt-1k-a", "annotations", "videos", cache="cache")
    trainer.fit(model, datamodule=data)

Every argument is a plain value, so that a YAML file can give it. What is held out for validation comes from the
training videos. Loaders share their data out over processes themselves, and a checkpoint holds where they are.
"""

from dataclasses import replace
from pathlib import Path

from vidret.data.augment import Augmentation
from vidret.data.cache.frames import CachedFrames, DecodedFrames, FramesCache, FrameSource
from vidret.data.cache.layers import LayersCache
from vidret.data.dataset import CaptionedVideos, Collate, GalleryDataset
from vidret.data.frames import FrameSampling, SamplingKind
from vidret.data.grounding import LabelledVideos, collate
from vidret.data.holdout import find_video_spans, leave_out
from vidret.data.records import Split
from vidret.data.stages import OpenedSplit, SplitData
from vidret.encode.encoder import LayeredEncoder
from vidret.encode.load import load_encoder
from vidret.errors import VidretError
from vidret.types import Interpolation, Resize


class RetrievalData(SplitData):
    """Captioned videos: ``RetrievalBatch`` of a caption with its video to train on, of videos with theirs to measure.

    No batch has two captions of one video, and every caption is used once an epoch; see ``TrainBatches``.
    """

    def __init__(
        self,
        name: str,
        annotations: str,
        videos: str,
        *,
        train_split: str | None = None,
        val_split: str | None = None,
        test_split: str | None = None,
        val_share: float = 0.05,
        cache: str | None = None,
        sampling: SamplingKind = "tempme",
        num_frames: int = 12,
        eval_frames: int | None = None,
        num_segments: int = 6,
        num_candidates: int = 4,
        image_size: int = 224,
        interpolation: Interpolation = "bicubic",
        num_words: int = 32,
        crop: float = 1.0,
        flip: float = 0.0,
        colour: float = 0.0,
        policy: bool = False,
        batch_size: int = 128,
        neighbours: int = 1,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        seed: int = 0,
        allow_missing: bool = False,
    ) -> None:
        """Keep the settings; nothing is read yet.

        Args:
            name: A benchmark, or ``captions`` for one's own; see ``read_split``.
            annotations: Where its files are.
            videos: The folder of videos.
            train_split: What to train on; the first split made for it unless given.
            val_split: A split to validate on, instead of a part of the training videos.
            test_split: A split to test on; there is none unless it is named.
            val_share: Share of the training videos that is held out for validation; 0 holds nothing out.
            cache: A folder to keep decoded frames in (150 kB each at 224); unless given they are decoded each time.
            sampling: How frames are chosen; see ``FrameSampling``.
            num_frames: Frames of a video in training.
            eval_frames: Frames of a video in evaluation; as many as in training unless given.
            num_segments: Segments of a video, for ``segments``.
            num_candidates: Frames of each segment among which training draws, for ``segments``; 0 leaves nothing to
                chance.
            image_size: Height and width of the pictures.
            interpolation: How they are brought to that size.
            num_words: Length of the texts, with start and end token.
            crop: See ``Augmentation``.
            flip: See ``Augmentation``; off, since it makes captions with left and right false.
            colour: See ``Augmentation``.
            policy: See ``Augmentation``.
            batch_size: Videos of a training batch, all processes together.
            neighbours: How many videos that follow each other in the annotations come in one batch: each other's
                hardest negatives. See ``TrainBatches``.
            eval_batch_size: Videos of an evaluation batch, in each process.
            num_workers: Processes that read, for each process that trains. What they read does not depend on it.
            seed: Decides what is held out, the batches, the frames drawn and the augmentation.
            allow_missing: Leave videos that cannot be read out of a benchmark's own validation and test splits.

        Raises:
            VidretError: A value breaks its rule.
        """
        super().__init__(
            name,
            annotations,
            train_split=train_split,
            val_split=val_split,
            test_split=test_split,
            val_share=val_share,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            allow_missing=allow_missing,
            neighbours=neighbours,
        )
        if num_words < 3 or image_size < 1:
            raise VidretError(
                f"num_words must be at least 3 and image_size at least 1, got {num_words} and {image_size}"
            )
        self._videos, self._cache, self._num_words = videos, cache, num_words
        self._resize = Resize(image_size, image_size, interpolation)
        self._sampling = FrameSampling(sampling, num_frames, num_segments, num_candidates)
        self._eval_sampling = FrameSampling(sampling, eval_frames or num_frames, num_segments)
        self._augmentation = Augmentation(crop, flip, colour, policy)

    def prepare_split(self, split: Split, *, training: bool) -> None:
        """Decode frames into the cache."""
        if self._cache is not None:
            parts, _ = find_video_spans(split, self._videos)
            self._open_cache(self._cache, training).build(list(parts.values()), self._num_workers)

    def open_split(self, split: Split, *, training: bool, whole: bool) -> OpenedSplit:
        """Find the videos, and look into them unless the cache knows them."""
        parts, missing = find_video_spans(split, self._videos)
        sampling = self._sampling if training else self._eval_sampling
        source: FrameSource
        if self._cache is None:
            source = DecodedFrames(parts, sampling, self._resize, self._num_workers)
        else:
            source = CachedFrames(self._open_cache(self._cache, training), parts)
        left = leave_out(split, missing | source.unreadable, source.salvaged, whole=whole)
        batches = Collate(left, num_frames=sampling.num_frames, num_words=self._num_words)
        if training:
            samples = CaptionedVideos(left, source, augmentation=self._augmentation, seed=self._seed)
            return OpenedSplit(left, samples, batches)
        return OpenedSplit(left, GalleryDataset(left, source), batches)

    def _open_cache(self, folder: str, training: bool) -> FramesCache:
        return FramesCache(folder, self._sampling if training else self._eval_sampling, self._resize)


class GroundingData(SplitData):
    """Labelled queries into long videos: ``GroundingBatch`` of a frozen encoder's layers, which are computed once.

    No batch has two queries into one video, since a loss may hold them against each other.
    """

    def __init__(
        self,
        name: str,
        annotations: str,
        videos: str,
        cache: str,
        *,
        encoder: str | LayeredEncoder = "ViT-B-32-quickgelu/openai",
        num_layers: int = 4,
        fps: float = 0.5,
        saliency_range: tuple[float, float] = (0.0, 4.0),
        min_seconds: float = 0.0,
        train_split: str | None = None,
        val_split: str | None = None,
        test_split: str | None = None,
        val_share: float = 0.05,
        batch_size: int = 32,
        eval_batch_size: int = 8,
        num_workers: int = 4,
        seed: int = 0,
        allow_missing: bool = False,
    ) -> None:
        """Keep the settings; nothing is read yet.

        Args:
            name: A benchmark, or ``moments`` for one's own; see ``read_split``.
            annotations: Where its files are.
            videos: The folder of videos.
            cache: The folder to keep layers in: 307 kB a frame for ViT-B/32 and 4 layers.
            encoder: The frozen encoder, or its name; see ``load_encoder``. One that is named is loaded on the trainer's
                device.
            num_layers: How many of its last layers are kept.
            fps: Frames a second.
            saliency_range: The least and the greatest mark that people could give a clip: 0 and 4 in QVHighlights, 1
                and 5 in TVSum, 0 and 1 in YouTube Highlights.
            min_seconds: Queries into shorter videos are left out of training.
            train_split: What to train on; the first split made for it unless given.
            val_split: A split to validate on, instead of a part of the training videos.
            test_split: A split to test on; there is none unless it is named.
            val_share: Share of the training videos that is held out for validation; 0 holds nothing out.
            batch_size: Queries of a training batch, all processes together.
            eval_batch_size: Queries of an evaluation batch, in each process.
            num_workers: Processes that read, for each process that trains. A batch of 32 of QVHighlights is 740 MB.
            seed: Decides what is held out, and the batches.
            allow_missing: Leave videos that cannot be read out of a benchmark's own validation and test splits.

        Raises:
            VidretError: A value breaks its rule.
        """
        super().__init__(
            name,
            annotations,
            train_split=train_split,
            val_split=val_split,
            test_split=test_split,
            val_share=val_share,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            allow_missing=allow_missing,
        )
        if not fps > 0 or not saliency_range[0] < saliency_range[1]:
            raise VidretError(f"fps must be above 0 and saliency_range rise, got {fps} and {saliency_range}")
        self._videos, self._cache, self._fps, self._num_layers = videos, Path(cache), fps, num_layers
        self._encoder, self._range, self._min_seconds = encoder, saliency_range, min_seconds

    def prepare_split(self, split: Split, *, training: bool) -> None:
        """Compute layers into the cache."""
        parts, _ = find_video_spans(split, self._videos)
        texts = [query.text for query in split.queries]
        encoder = self._load()
        self._open_cache(encoder).build(encoder, list(parts.values()), texts, self._num_workers)

    def open_split(self, split: Split, *, training: bool, whole: bool) -> OpenedSplit:
        """Find the layers of all videos."""
        parts, missing = find_video_spans(split, self._videos)
        cache = self._open_cache(self._load())
        found = {video: cache.known.find(part) for video, part in parts.items()}
        reasons = missing | {video: state.failed for video, state in found.items() if state.failed}
        keys = {video: state.key for video, state in found.items() if not state.failed}
        facts = {video: cache.shards.facts(key) for video, key in keys.items()}
        lost = {video: each["lost"] for video, each in facts.items() if each["lost"]}
        left = leave_out(split, reasons, lost, whole=whole)
        if training:
            lasting = {video for video, each in facts.items() if each["duration"] >= self._min_seconds}
            left = self._keep_labelled(left, lasting)
        samples = LabelledVideos(left, cache, keys, fps=self._fps, saliency_range=self._range)
        return OpenedSplit(left, samples, collate)

    def _keep_labelled(self, split: Split, lasting: set[str]) -> Split:
        """Leave out queries into videos that are too short; refuse those without labels."""
        if bare := [query.id for query in split.queries if not (query.spans or query.saliency)]:
            raise VidretError(f"{split.name} must have spans or saliency to train on, got none for query {bare[0]}")
        kept = tuple(query for query in split.queries if query.video in lasting)
        if len(kept) == len(split.queries):
            return split
        num_out = len(split.queries) - len(kept)
        note = f"queries left out, since their video lasts less than {self._min_seconds:g} s: {num_out}"
        return replace(split, queries=kept, notes=(*split.notes, note))

    def _load(self) -> LayeredEncoder:
        given = self._encoder
        encoder = load_encoder(given, device=self.find_device()) if isinstance(given, str) else given
        if not isinstance(encoder, LayeredEncoder):
            raise VidretError(f"encoder must be one that gives its layers, such as a CLIP model, got {self._encoder}")
        return encoder

    def _open_cache(self, encoder: LayeredEncoder) -> LayersCache:
        return LayersCache(self._cache, encoder, num_layers=self._num_layers, fps=self._fps)
