"""Results as dicts and as tables."""

import json

import pytest

from vidret import Hit, Moment, Segment, to_dicts, to_pandas

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
