# SPDX-License-Identifier: GPL-2.0
"""The benchmark's results, as they are in the tree."""

import json
import pathlib
import sys

import pytest

BENCH = pathlib.Path(__file__).resolve().parent.parent / 'bench'
sys.path.insert(0, str(BENCH))

from report import Report  # noqa: E402
from results import Results, problems  # noqa: E402

ROW = {'system': 'ipvs', 'mode': None, 'forward': None, 'migrate': None,
       'size': 1024, 'keepalive': False, 'metric': 'rps', 'runs': [1.5, 2]}


def test_shape() -> None:
    """results.json is what docs/benchmark.md says it is."""
    with open(BENCH / 'results.json', encoding='ascii') as file:
        assert problems(json.load(file)) == []


@pytest.mark.parametrize('change', [
    {'system': 'lvs'}, {'metric': 'cpu'}, {'runs': []}, {'runs': ['1']},
    {'size': '1k'}, {'size': -1}, {'keepalive': 0}, {'mode': 1}, {'more': 1}],
    ids=str)
def test_wrong_shapes(change) -> None:
    """What differs from that is noticed."""
    assert problems([ROW]) == []
    assert problems([{**ROW, **change}])


def test_twice() -> None:
    """So is a figure that is there twice, and no figures at all."""
    assert problems([ROW, ROW])
    assert problems([])


def test_report(tmp_path) -> None:
    """The report says what the figures say."""
    with open(BENCH / 'about.json', encoding='utf-8') as file:
        about = json.load(file)
    with open(BENCH / 'functions.json', encoding='utf-8') as file:
        functions = json.load(file)
    Report(Results.read(BENCH / 'results.json'), about, functions).write(tmp_path)
    for written in tmp_path.iterdir():
        assert written.read_bytes() == (BENCH / written.name).read_bytes()
