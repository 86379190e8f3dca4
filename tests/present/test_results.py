"""Results as dicts and as tables."""

import json
from dataclasses import replace

import pytest

from vidret import Hit, Moment, Segment, to_dicts, to_pandas
from vidret.present.show import show_grouped_moments, show_hits, show_moments
from vidret.types import NearCopy

HIT = Hit(video=1, path="/a.mp4", segment=Segment(1, 0, 0.0, 3.0), time=1.5, score=0.5)
MOMENT = Moment(video=1, path="/a.mp4", start=1.0, end=2.0, score=0.5)


def test_dicts_are_those_of_the_command() -> None:
    hit, moment = json.loads(json.dumps(to_dicts([HIT, MOMENT])))
    assert (hit["path"], hit["segment"]["end"], hit["copies"]) == ("/a.mp4", 3.0, [])
    assert (moment["start"], moment["end"], moment["by"]) == (1.0, 2.0, "curve")
    assert to_dicts([]) == []


def test_a_table_has_a_row_for_each_result() -> None:
    pytest.importorskip("pandas", reason="needs the extra pandas")
    table = to_pandas([MOMENT, MOMENT])
    assert table["start"].tolist() == [1.0, 1.0]
    assert table.shape[0] == 2


def test_copies_are_below_their_result(capsys: pytest.CaptureFixture[str]) -> None:
    near_copies = (NearCopy(video=2, path="/small/a.mp4", time=65.0),)
    show_hits([replace(HIT, copies=("/twin/a.mp4",), near_copies=near_copies)])
    show_moments([replace(MOMENT, near_copies=near_copies)])
    show_grouped_moments([replace(MOMENT, near_copies=near_copies)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-2:] for line in lines if "small" in line] == 3 * [["~", "/small/a.mp4"]]
    assert [line.split()[0] for line in lines if "small" in line] == 3 * ["1:05.0"]
    assert lines[2].endswith("= /twin/a.mp4")
    (row,) = to_dicts([replace(HIT, near_copies=near_copies)])
    assert row["near_copies"] == [{"video": 2, "path": "/small/a.mp4", "time": 65.0}]
