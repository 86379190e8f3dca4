"""Lightning data modules, which turn a benchmark's annotations and a folder of videos into batches.

    data = RetrievalData("msrvtt-1k-a", "annotations", "videos", cache="cache")
    trainer.fit(model, datamodule=data)

Every argument is a plain value, so that it can be set in a YAML file. By default, validation videos are held out of the
training split. The loaders shard their data over processes themselves, and checkpoints store their position.
"""

from dataclasses import replace
from pathlib import Path

from torch.utils.data import Dataset

from vidret.data.augment import Augmentation
from vidret.data.benchmarks.splits import SplitChoice, drop_unreadable, find_video_spans
from vidret.data.dataset import (
    CaptionedVideos,
    Collate,
    GalleryDataset,
    RetrievalBatch,
    Sample,
    augment_batch,
    find_rewritten,
)
from vidret.data.frames import CachedFrames, DecodedFrames, FrameSampling, FramesCache, FrameSource, SamplingKind
from vidret.data.grounding import LabelledVideos, collate
from vidret.data.layers import LayersCache
from vidret.data.records import Split
from vidret.data.stages import OpenedSplit, SplitData
from vidret.devices import CPU
from vidret.encode.encoder import LayeredEncoder
from vidret.encode.families.registry import load_encoder
from vidret.encode.names import drop_sampling
from vidret.errors import VidretError
from vidret.types import Resize, Sampling

NUM_CANDIDATES = 4  # frames per segment to draw from at random in training, for ``segments``


class RetrievalData(SplitData):
    """Captioned videos in ``RetrievalBatch``: captions with their videos to train on, videos with captions to evaluate.

    No training batch has two captions of one video, and every caption is used once per epoch; see ``TrainBatches``.

    Args:
        name: A benchmark, or ``captions`` for custom captions; see ``read_split``.
        annotations: Folder of the annotation files.
        videos: Folder of the videos.
        train_split: Split to train on; defaults to the benchmark's first training split.
        val_split: Split to validate on, instead of held-out training videos.
        test_split: Split to test on; required for testing.
        val_share: Share of the training videos held out for validation; 0 for no validation.
        cache: Folder to cache decoded frames in (150 kB each at 224 x 224); None to decode them each time.
        sampling: Frame sampling rule; see ``FrameSampling``.
        num_frames: Frames per video in training.
        eval_frames: Frames per video in evaluation; defaults to ``num_frames``.
        num_segments: Segments per video, for ``segments``.
        image_size: Height and width of the frames in pixels.
        num_words: Number of tokens per text, including the start and end tokens.
        first_sentences: Whether batches have the first sentences of texts too, as ``longclip`` needs.
        crop: See ``Augmentation``.
        flip: See ``Augmentation``; off by default, since it falsifies captions that mention left or right.
        colour: See ``Augmentation``.
        policy: See ``Augmentation``.
        batch_size: Videos per training batch, over all processes.
        neighbours: Number of consecutive videos in the annotations that share a batch, as hard negatives of each
            other. See ``TrainBatches``.
        eval_batch_size: Videos per evaluation batch, per process.
        num_workers: Data loading workers per training process. The batches do not depend on it.
        rewritten: Other wordings of training captions, as ``vidret train captions`` writes them; each epoch draws one
            of them or the caption itself. None for captions only.
        seed: Seed of the held-out videos, the batches, the sampled frames and wordings, and the augmentation.
        allow_missing: Whether to drop unreadable videos from a benchmark's own validation and test splits.

    Raises:
        VidretError: A value is invalid.
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
        image_size: int = 224,
        num_words: int = 32,
        first_sentences: bool = False,
        crop: float = 1.0,
        flip: float = 0.0,
        colour: float = 0.0,
        policy: bool = False,
        batch_size: int = 128,
        neighbours: int = 1,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        rewritten: str | None = None,
        seed: int = 0,
        allow_missing: bool = False,
    ) -> None:
        """Store the settings; nothing is read yet."""
        super().__init__(
            SplitChoice(name, annotations, train_split, val_split, test_split, val_share, seed),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            allow_missing=allow_missing,
            neighbours=neighbours,
        )
        if num_words < 3 or image_size < 1:
            raise VidretError(f"num_words must be at least 3 and image_size at least 1, got {num_words}, {image_size}")
        self._video_folder, self._cache, self._num_words = videos, cache, num_words
        self._first_sentences, self._rewritten = first_sentences, rewritten
        self._sampling = FrameSampling(sampling, num_frames, num_segments, NUM_CANDIDATES)
        self._eval_sampling = FrameSampling(sampling, eval_frames or num_frames, num_segments)
        self._resize = Resize(image_size, image_size)
        self._augmentation = Augmentation(crop, flip, colour, policy)

    def check_fit(self, sampling: Sampling, *, image_size: int, context: int) -> None:
        """Check that a model fits these data, and that evaluation frames are those of a whole video in its index.

        Args:
            sampling: Frames of a video in an index of the model.
            image_size: Height and width of its frames in pixels.
            context: Tokens of its longest text.

        Raises:
            VidretError: They do not fit.
        """
        eval_sampling = self._eval_sampling
        if not eval_sampling.matches(sampling):
            raise VidretError(f"sampling and num_segments of the model must be those of its data, got {sampling}")
        for name, rule, wanted, got in (
            ("num_frames", "that of its data in validation", eval_sampling.num_frames, sampling.num_frames),
            ("image_size", "that of its data", self._resize.crop, image_size),
        ):
            if wanted != got:
                raise VidretError(f"{name} of the model must be {rule}, {wanted}, got {got}")
        if self._num_words > context:
            raise VidretError(
                f"num_words of the data must be at most the context of the text tower, {context}, got {self._num_words}"
            )

    def prepare_split(self, split: Split, *, training: bool) -> None:
        """Decode the frames into the cache, if there is one."""
        if self._cache is not None:
            spans, _ = find_video_spans(split, self._video_folder)
            self._open_cache(self._cache, training).build(list(spans.values()), self._num_workers)

    def open_split(self, split: Split, *, training: bool, whole: bool) -> OpenedSplit:
        """Find the videos in the cache, or without a cache by probing their files."""
        spans, missing = find_video_spans(split, self._video_folder)
        sampling = self._sampling if training else self._eval_sampling
        source: FrameSource
        if self._cache is None:
            source = DecodedFrames(spans, sampling, self._resize, self._num_workers)
        else:
            source = CachedFrames(self._open_cache(self._cache, training), spans)
        kept = drop_unreadable(split, missing | source.unreadable, source.salvaged, whole=whole)
        collate_captions = Collate(
            kept,
            num_frames=sampling.num_frames,
            num_words=self._num_words,
            first_sentences=self._first_sentences and training,
        )
        sizes = [3 * sampling.num_frames * self._resize.crop**2] * len(kept.videos)
        dataset: Dataset[Sample] = GalleryDataset(kept, source)
        if training:
            later = self._augmentation != Augmentation() and self.find_device() != CPU
            dataset = CaptionedVideos(
                kept,
                source,
                augmentation=self._augmentation,
                seed=self._splits.seed,
                later=later,
                rewritten={} if self._rewritten is None else find_rewritten(Path(self._rewritten), kept),
            )
        return OpenedSplit(split=kept, dataset=dataset, collate=collate_captions, sizes=sizes)

    def on_after_batch_transfer(self, batch: RetrievalBatch, dataloader_idx: int) -> RetrievalBatch:
        """Augment training videos on a GPU; workers do it for a CPU."""
        return augment_batch(batch, self._augmentation, self._splits.seed)

    def _open_cache(self, folder: str, training: bool) -> FramesCache:
        return FramesCache(folder, self._sampling if training else self._eval_sampling, self._resize)


class GroundingData(SplitData):
    """Labelled queries into long videos in ``GroundingBatch``, with cached layers of a frozen encoder.

    No training batch has two queries into one video, since a contrastive loss may treat them as negatives. Videos of
    very different lengths are in different batches, which are padded to the longest; see ``plan_buckets``.

    Args:
        name: A benchmark, or ``moments`` for custom moments; see ``read_split``.
        annotations: Folder of the annotation files.
        videos: Folder of the videos.
        cache: Folder to cache layers in; 307 kB per frame for 4 layers of ViT-B/32.
        encoder: The frozen encoder, or its name; see ``load_encoder``. A named encoder is loaded on the trainer's
            device.
        num_layers: Number of the encoder's last layers to use.
        fps: Frames per second.
        shots: Whether videos are cut into segments at shots, as a new index does, or on a grid.
        saliency_range: Lowest and highest score that annotators could give a clip: 0 and 4 in QVHighlights, 1 and 5
            in TVSum, 0 and 1 in YouTube Highlights.
        domain: Domain of the queries, for benchmarks with one model per domain (YouTube Highlights, TVSum); None for
            all.
        min_seconds: Minimum duration of a training video; queries into shorter ones are omitted.
        train_split: Split to train on; defaults to the benchmark's first training split.
        val_split: Split to validate on, instead of held-out training videos.
        test_split: Split to test on; required for testing.
        val_share: Share of the training videos held out for validation; 0 for no validation.
        batch_size: Queries per training batch, over all processes.
        eval_batch_size: Queries per evaluation batch, per process.
        num_workers: Data loading workers per training process. A batch of 32 from QVHighlights takes 740 MB.
        seed: Seed of the held-out videos and the batches.
        allow_missing: Whether to drop unreadable videos from a benchmark's own validation and test splits.

    Raises:
        VidretError: A value is invalid.
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
        shots: bool = True,
        saliency_range: tuple[float, float] = (0.0, 4.0),
        domain: str | None = None,
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
        """Store the settings; nothing is read yet."""
        super().__init__(
            SplitChoice(name, annotations, train_split, val_split, test_split, val_share, seed, domain),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            allow_missing=allow_missing,
        )
        if not fps > 0 or not saliency_range[0] < saliency_range[1]:
            raise VidretError(f"fps must be positive and saliency_range ascending, got {fps} and {saliency_range}")
        self._video_folder, self._cache, self._fps, self._num_layers = videos, Path(cache), fps, num_layers
        self._encoder, self._range, self._min_seconds = encoder, saliency_range, min_seconds
        self._shots = shots

    def check_fit(self, *, fps: float, num_layers: int, backbone: str) -> None:
        """Check that a head has the frame rate, the number of layers and the encoder of these data.

        Raises:
            VidretError: It has another.
        """
        encoder = self._encoder if isinstance(self._encoder, str) else backbone
        for name, wanted, got in (
            ("fps", self._fps, fps),
            ("num_layers", self._num_layers, num_layers),
            ("backbone", drop_sampling(encoder), drop_sampling(backbone)),
        ):
            if wanted != got:
                raise VidretError(f"{name} of the head must be that of its data, {wanted}, got {got}")

    def prepare_split(self, split: Split, *, training: bool) -> None:
        """Compute the layers into the cache."""
        spans, _ = find_video_spans(split, self._video_folder)
        texts = [query.text for query in split.queries]
        encoder = self._load_encoder()
        self._open_cache(encoder).build(encoder, list(spans.values()), texts, self._num_workers)

    def open_split(self, split: Split, *, training: bool, whole: bool) -> OpenedSplit:
        """Find the layers of all videos in the cache."""
        spans, missing = find_video_spans(split, self._video_folder)
        cache = self._open_cache(self._load_encoder())
        cached = cache.entries.look_up(spans)
        kept = drop_unreadable(split, missing | cached.unreadable, cached.salvaged, whole=whole)
        if training:
            durations = {video_id: cache.entries.facts(key)["duration"] for video_id, key in cached.keys.items()}
            kept = self._keep_trainable(kept, {name for name, long in durations.items() if long >= self._min_seconds})
        dataset = LabelledVideos(kept, cache, cached.keys, fps=self._fps, saliency_range=self._range)
        sizes = [cache.entries.num_bytes(cached.keys[video_id]) for video_id in kept.videos]
        return OpenedSplit(split=kept, dataset=dataset, collate=collate, sizes=sizes)

    def _keep_trainable(self, split: Split, long_enough: set[str]) -> Split:
        """Return a split without queries into videos that are too short. Queries without labels are refused."""
        if unlabelled := [query.id for query in split.queries if not (query.spans or query.saliency)]:
            raise VidretError(
                f"{split.name} must have spans or saliency to train on, got none for query {unlabelled[0]}"
            )
        kept = tuple(query for query in split.queries if query.video in long_enough)
        if len(kept) == len(split.queries):
            return split
        num_omitted = len(split.queries) - len(kept)
        note = f"queries omitted because their video is shorter than {self._min_seconds:g} s: {num_omitted}"
        return replace(split, queries=kept, notes=(*split.notes, note))

    def _load_encoder(self) -> LayeredEncoder:
        given = self._encoder
        encoder = load_encoder(given, device=self.find_device()) if isinstance(given, str) else given
        if not isinstance(encoder, LayeredEncoder):
            raise VidretError(f"encoder must provide its layers, as CLIP models do, got {self._encoder}")
        return encoder

    def _open_cache(self, encoder: LayeredEncoder) -> LayersCache:
        return LayersCache(self._cache, encoder, num_layers=self._num_layers, fps=self._fps, shots=self._shots)
