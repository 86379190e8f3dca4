"""Tests of vidret/present/chart.py: charts are read back from their pixels, and texts must not overlap."""

import math
import resource
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vidret.present import chart
from vidret.present.chart import PAPER, draw_curve
from vidret.types import Curve, CurveText, Moment

PATH = "/films/a.mp4"


def draw(
    out: Path,
    times: np.ndarray,
    scores: np.ndarray,
    *moments: tuple[float, float],
    end: float,
    weak: bool = False,
    query: str = "a red car",
) -> np.ndarray:
    ranked = [(rank, Moment(1, PATH, *span, 0.5, weak)) for rank, span in enumerate(moments, start=1)]
    return draw_ranked(out, times, scores, ranked, end=end, query=query)


def draw_ranked(
    out: Path, times: np.ndarray, scores: np.ndarray, moments: Any = (), *, end: float, query: str = "car", **facts: Any
) -> np.ndarray:
    """Return the pixels of the chart of a curve."""
    draw_curve(Curve(scores, times, 0.0, end, 0.0, **facts), moments, out, query=query, title="a.mp4")
    return np.asarray(Image.open(out)).astype(int)


def is_near(pixels: np.ndarray, colour: tuple[int, ...], within: int = 24) -> np.ndarray:
    near: np.ndarray = np.abs(pixels - colour).max(axis=-1) <= within
    return near


def read_curve(pixels: np.ndarray, x: int) -> float:
    """Return the middle of the curve in a pixel column, in pixels from the top."""
    return float(np.nonzero(is_near(pixels[chart.TOP : chart.BOTTOM, x], chart.CURVE))[0].mean()) + chart.TOP


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Collect every text that is drawn, with its bounding box."""
    written: list[tuple[str, tuple[float, float, float, float]]] = []
    real = ImageDraw.ImageDraw.text

    def text(self: ImageDraw.ImageDraw, xy: Any, text: str, fill: Any, font: Any, anchor: str | None = None) -> None:
        written.append((text, self.textbbox(xy, text, font, anchor)))
        real(self, xy, text, fill, font, anchor)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return written


@pytest.mark.parametrize(("end", "low", "high"), [(60.0, 0.1, 0.3), (5.0, -8.0, 12.0), (7200.0, 0.0, 1.0)])
def test_curve_passes_through_its_scores(end: float, low: float, high: float, tmp_path: Path) -> None:
    times = np.linspace(0, end, 25)
    scores = low + (high - low) * np.linspace(0, 1, 25) ** 2
    pixels = draw(tmp_path / "a.png", times, scores, end=end)
    for x in range(chart.LEFT + 20, chart.RIGHT - 20, 50):
        score = np.interp((x + 0.5 - chart.LEFT) / (chart.RIGHT - chart.LEFT) * end, times, scores)
        share = (score - low) / (high - low)  # of the range, with a margin of 0.08 on each side
        expected = chart.BOTTOM - (chart.BOTTOM - chart.TOP) * (share + 0.08) / 1.16
        assert read_curve(pixels, x) == pytest.approx(expected, abs=2.5)


def test_bands_reach_from_start_to_end(tmp_path: Path) -> None:
    pixels = draw(tmp_path / "a.png", np.arange(100.0), np.zeros(100), (20, 40), (70, 75), end=100)
    row = pixels[chart.BOTTOM - 10, chart.LEFT : chart.RIGHT]
    seconds = (np.arange(len(row)) + 0.5) / len(row) * 100
    inside = ((seconds > 20) & (seconds < 40)) | ((seconds > 70) & (seconds < 75))
    far = np.abs(seconds[:, None] - [20, 40, 70, 75]).min(axis=1) > 0.2
    assert is_near(row[inside & far], chart.BAND).all()
    assert is_near(row[~inside & far], PAPER).all()
    for edge in (20, 40, 70, 75):
        assert is_near(row[np.abs(seconds - edge) < 0.2], chart.EDGE, within=60).any()


def test_unlikely_moments_are_grey_and_labelled(tmp_path: Path, texts: list[Any]) -> None:
    pixels = draw(tmp_path / "a.png", np.arange(100.0), np.zeros(100), (20, 40), end=100, weak=True)
    assert is_near(pixels[chart.BOTTOM - 10, chart.LEFT + 330], chart.WEAK_BAND, within=1)
    assert not is_near(pixels, chart.EDGE).any()
    assert "1:  0:20 to 0:40, unlikely" in [text for text, _ in texts]


def test_typical_score_is_a_labelled_line_in_range(tmp_path: Path, texts: list[Any]) -> None:
    times, scores = np.arange(100.0), 0.1 + 0.01 * np.sin(np.arange(100.0))
    for typical in (0.3, 0.2, -0.2):
        pixels = draw_ranked(tmp_path / "a.png", times, scores, end=100, typical=typical)
        low, high = chart.score_range(np.append(scores, typical))
        y = round(chart.BOTTOM - (chart.BOTTOM - chart.TOP) * (typical - low) / (high - low))
        row = pixels[y - 1 : y + 1, chart.LEFT + 5 : chart.RIGHT - 200].sum(axis=(0, 2))
        assert 0.4 < (row < row.max() - 60).mean() < 0.7, "dashes"
        name, (_, top, _, bottom) = next(drawn for drawn in texts if drawn[0] == chart.TYPICAL)
        assert name == "typical of other queries"
        assert chart.TOP <= top < bottom <= chart.BOTTOM
        texts.clear()
    flat = draw(tmp_path / "a.png", times, scores, end=100)
    assert np.ptp(np.nonzero(is_near(flat, chart.CURVE))[0]) > 150, "without it the curve fills the plot"


def test_words_are_columns_of_their_channel_up_to_their_score(
    tmp_path: Path, texts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(cast(dict[str, Any], chart.WORDS), "screen")  # as a kind that was added
    words = (
        CurveText(source="speech", start=10, end=30, score=0.5, text="hello there"),
        CurveText(source="screen", start=40, end=41, score=7.0, text="EXIT"),  # far more than any frame says
    )
    pixels = draw_ranked(tmp_path / "a.png", np.arange(60.0), np.linspace(0, 1, 60), end=60, texts=words)
    width, tops = chart.RIGHT - chart.LEFT, []
    for text in words:
        column = pixels[chart.TOP : chart.BOTTOM, chart.LEFT + round(width * (text.start + text.end) / 2 / 60)]
        colour = chart.WORDS.get(text.source, chart.OTHER_WORDS)
        tops.append(np.nonzero(is_near(column, colour))[0].min() + chart.TOP)
        assert is_near(column[-30], chart.tint(colour), 12).all(), "down to the axis"
    assert tops[0] > read_curve(pixels, chart.LEFT + width * 58 // 60), "half as high as the last frames"
    assert tops[1] <= chart.TOP + 4
    assert "said: hello there" in [text for text, _ in texts]
    assert not any("EXIT" in text for text, _ in texts), "there is no room"


def test_labels_have_ranks_times_and_similarities(tmp_path: Path, texts: list[Any]) -> None:
    moments = [(3, Moment(1, PATH, 5, 7.25, 0.5)), (12, Moment(1, PATH, 40, 52, 0.5, similarity=0.25))]
    draw_ranked(tmp_path / "a.png", np.arange(60.0), np.zeros(60), moments, end=60)
    assert [text for text, _ in texts if ":  " in text] == ["3:  0:05 to 0:07.2", "12:  0:40 to 0:52, 0.250"]
    texts.clear()
    draw(tmp_path / "a.png", np.arange(60.0), np.zeros(60), *[(10 + i, 30 - i) for i in range(7)], end=60)
    assert [text[0] for text, _ in texts if ":  " in text] == list("12345"), "five that overlap"


@pytest.mark.parametrize("end", [0.05, 33.3, 3 * 3600.0, 40 * 86400.0])
def test_texts_neither_overlap_nor_leave_the_image(end: float, tmp_path: Path, texts: list[Any]) -> None:
    rng = np.random.default_rng(int(end))
    starts = rng.uniform(0, 0.95 * end, 12)
    spans = [(start, start + rng.uniform(0.001, 0.3) * (end - start)) for start in starts]
    spans += [(0, end), (0, end / 1000), (end * 0.999, end)]
    scores = rng.normal(size=50) * 10 ** rng.uniform(-3, 3)
    draw(tmp_path / "a.png", np.linspace(0, end, 50), scores, *spans, end=end, query="a long query " * 40)
    boxes = [box for _, box in texts]
    for text_index, (left, top, right, bottom) in enumerate(boxes):
        assert 0 <= left < right <= chart.SIZE[0], texts[text_index]
        assert 0 <= top < bottom <= chart.SIZE[1], texts[text_index]
        for other in boxes[:text_index]:
            assert left >= other[2] or other[0] >= right or top >= other[3] or other[1] >= bottom, texts[text_index]
    clocks = [text for text, (_, top, _, _) in texts if top > chart.BOTTOM]
    assert 1 <= len(clocks) <= 13
    assert clocks[0] == "0:00"
    assert sum(text.startswith(("1:  ", "2:  ", "3:  ")) for text, _ in texts) == 3


def test_single_frame_is_a_dot(tmp_path: Path) -> None:
    pixels = draw(tmp_path / "a.png", np.array([0.5]), np.array([0.2]), (0, 1), end=1)
    ys, xs = np.nonzero(is_near(pixels, chart.CURVE))
    middle = (chart.LEFT + chart.RIGHT) / 2, (chart.TOP + chart.BOTTOM) / 2
    assert (xs.mean(), ys.mean()) == pytest.approx(middle, abs=1)
    assert 4 <= np.ptp(xs) <= 8
    assert 4 <= np.ptp(ys) <= 8


def test_dense_frames_are_drawn_as_mean_and_range(tmp_path: Path) -> None:
    times = np.arange(3 * 3600.0)
    scores = 0.2 + 0.1 * np.where(times % 2 == 0, 1, -1) + np.where((times > 5000) & (times < 6000), 0.1, 0)
    pixels = draw(tmp_path / "a.png", times, scores, end=3 * 3600)
    low, high = chart.score_range(scores)
    for time, mean in ((2000, 0.2), (5500, 0.3), (9000, 0.2)):
        x = chart.LEFT + round(time / 10800 * (chart.RIGHT - chart.LEFT))
        expected = chart.BOTTOM - (chart.BOTTOM - chart.TOP) * (mean - low) / (high - low)
        assert read_curve(pixels, x) == pytest.approx(expected, abs=3)
        cloud = np.nonzero(is_near(pixels[chart.TOP : chart.BOTTOM, x], chart.RANGE_BAND))[0] + chart.TOP
        reach = (chart.BOTTOM - chart.TOP) * 0.1 / (high - low)
        assert (cloud.min(), cloud.max()) == pytest.approx((expected - reach, expected + reach), abs=3)
    peak = np.zeros(len(times))
    peak[5000] = 1
    pixels = draw(tmp_path / "a.png", times, peak, end=3 * 3600)
    x = chart.LEFT + round(5000 / 10800 * (chart.RIGHT - chart.LEFT))
    top = int(chart.TOP + (chart.BOTTOM - chart.TOP) * 0.08 / 1.16)
    is_seen = is_near(pixels[top + 5 : top + 60, x - 2 : x + 3], chart.RANGE_BAND, within=40)
    assert is_seen.any(axis=1).mean() > 0.5, "a single peak is visible"


def test_queries_are_printable_and_cut_to_the_plot(tmp_path: Path, texts: list[Any]) -> None:
    draw(tmp_path / "a.png", np.arange(9.0), np.arange(9.0), end=9, query="two\nlines \udcff \u8eca")
    assert texts[0][0] == "two\N{REPLACEMENT CHARACTER}lines \N{REPLACEMENT CHARACTER} \u8eca"
    texts.clear()
    draw(tmp_path / "a.png", np.arange(9.0), np.arange(9.0), end=9, query="a long query " * 40)
    text, (left, _, right, _) = texts[0]
    assert text.startswith("a long query")
    assert text.endswith("...")
    assert chart.RIGHT - chart.LEFT - 20 < right - left <= chart.RIGHT - chart.LEFT


def test_a_font_has_the_letters_of_a_text_if_there_is_one() -> None:
    assert chart.choose_font("a dog", 13) is chart.load_font("", 13)
    assert not chart.has_letter("", "ü")
    fonts = [name for name in chart.FONTS if chart.has_letter(name, "ü")]
    assert chart.choose_font("Übung", 13) is chart.load_font(fonts[0] if fonts else "", 13)


def test_a_chart_of_which_only_a_part_fits_on_the_disk_is_an_error(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            draw(tmp_path / "a.jpg", np.arange(9.0), np.arange(9.0), end=9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_steps_are_round_and_few() -> None:
    rng = np.random.default_rng(1)
    for low, spread in zip(rng.normal(size=200) * 10, 10 ** rng.uniform(-4, 4, 200), strict=True):
        step = chart.score_step(low, low + spread)
        assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5)
        ticks = chart.list_ticks(low, low + spread, step)
        assert 2 <= len(ticks) <= 6
        assert low - 1e-6 * spread <= ticks[0] < low + step
        assert low + spread - step < ticks[-1] <= low + spread * (1 + 1e-6)
    for end in 10 ** rng.uniform(0, 6, 200):
        assert 2 <= len(chart.list_ticks(0, end, chart.time_step(end))) <= 13
    assert [chart.time_step(end) for end in (1, 5, 60, 120, 3600, 10800)] == [0.1, 0.5, 5, 10, 300, 900]
