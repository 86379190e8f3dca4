"""Shots as text for other programs."""

import csv
import io
import json

import pytest

from vidret.present.contents import format_shots, show_shots
from vidret.types import Shot

SHOTS = [Shot(0.0, 12.480000001, None), Shot(12.48, 75.25, "cut"), Shot(77.0, 80.0, "dissolve")]


def test_shots_in_csv_and_json_agree() -> None:
    rows = json.loads(format_shots(SHOTS, "json"))
    assert rows[0] == {"shot": 1, "start": 0.0, "end": 12.48, "length": 12.48, "begins_with": None}
    assert rows[2] == {"shot": 3, "start": 77.0, "end": 80.0, "length": 3.0, "begins_with": "dissolve"}
    text = format_shots(SHOTS, "csv")
    assert text.startswith("shot,start,end,length,begins_with\r\n1,0.0,12.48,12.48,\r\n")
    table = list(csv.DictReader(io.StringIO(text)))
    assert [{name: str("" if value is None else value) for name, value in row.items()} for row in rows] == table


def test_table_of_shots(capsys: pytest.CaptureFixture[str]) -> None:
    show_shots(SHOTS)
    assert capsys.readouterr().out.splitlines() == [
        "shot   start     end  length  begins with",
        "   1  0:00.0  0:12.4  12.5 s  ",
        "   2  0:12.4  1:15.2  62.8 s  cut",
        "   3  1:17.0  1:20.0   3.0 s  dissolve",
    ]
