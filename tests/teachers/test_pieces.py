"""Rows that were read and rows that were asked for, each in its sample's place."""

import pytest
import torch

from composer_kd.teachers.pieces import runs, woven


@pytest.mark.parametrize(('counts', 'asked', 'want'), [
    ([2, -1, 1, -1], [3, 1], [0, 1, 10, 11, 12, 2, 13]),
    ([-1, 2, -1, 0], [0, 2], [0, 1, 10, 11]),
    ([0, -1, 3], [1], [10, 0, 1, 2]),
])
def test_samples_of_any_number_of_rows(counts, asked, want):
    counts = torch.tensor(counts)
    kept = torch.arange(int(counts.clamp_min(0).sum()), dtype=torch.uint8).unsqueeze(1)
    raw = torch.arange(10, 10 + sum(asked), dtype=torch.uint8).unsqueeze(1)
    assert woven(counts, kept, (counts < 0).nonzero().squeeze(1), raw, asked).squeeze(1).tolist() == want


def test_runs():
    assert runs([0, 1, 2, 5, 7, 8]) == [(0, 3), (5, 6), (7, 9)]
