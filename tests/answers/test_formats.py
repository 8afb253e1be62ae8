"""How answers are written: what comes back, and how many bytes they take on disk."""

import numpy as np
import pytest
import torch

from composer_kd.answers import Format, Sparse, Store
from tests.answers.made import fill, rows_for, write_store

CLASSES = [2, 3, 10, 255, 256, 257, 1000, 65_535, 65_536, 65_537, 70_000]


def forms(classes):
    yield from (Format('dense', classes, dtype) for dtype in ('float32', 'float16', 'bfloat16'))
    for k in {1, min(8, classes - 1)}:
        yield from (Format('top_k', classes, dtype, k, 2.0) for dtype in ('float32', 'float16', 'bfloat16'))
    yield from (Format('sampled', classes, k=k) for k in (1, 50, 255, 256, 300))


def uniform_of(form, rows, seed=0):
    return torch.rand(rows, form.k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('classes', CLASSES)
def test_what_is_packed_comes_back(classes):
    rows = 4
    z = torch.randn(rows, classes, generator=torch.Generator().manual_seed(classes)) * 3
    z[0, 0], z[1, -1], z[2, classes // 2] = 20.0, 20.0, 20.0  # the first class, the last, one in the middle
    for form in forms(classes):
        raw = form.pack(z, uniform_of(form, rows))
        assert raw.dtype == torch.uint8, form
        assert raw.shape == (rows, form.row_bytes), form
        found = form.unpack(raw)
        dtype = getattr(torch, form.dtype)
        if form.name == 'dense':
            assert found.dtype == torch.float32
            assert torch.equal(found, z.to(dtype).float()), form
            continue
        assert isinstance(found, Sparse)
        assert found.likeliest()[:3].tolist() == [0, classes - 1, classes // 2], form
        assert (found.temperature, found.count, len(found)) == (form.temperature, classes, rows)
        if form.name == 'top_k':
            want = (z.double() / 2).log_softmax(-1)
            kept = want.gather(-1, found.classes)
            assert torch.equal(kept.sort(descending=True).values, want.topk(form.k).values), form
            # of the dtype's nearest numbers, once the float32 behind them has its own last digits
            assert torch.allclose(found.log_probabilities, kept.to(dtype).float(), rtol=2 * torch.finfo(dtype).eps, atol=3e-6), form
            rest = 1 - kept.exp().sum(-1)
            assert torch.allclose(found.log_rest.exp().double(), rest, rtol=0.05, atol=1e-6), form
        else:
            counts = found.log_probabilities.exp() * form.k
            assert torch.allclose(counts, counts.round(), atol=1e-3)
            assert torch.allclose(counts.sum(-1), torch.full((rows,), float(form.k)), rtol=1e-5)
            assert (found.log_rest == -torch.inf).all()
            assert found.drawn


@pytest.mark.parametrize('classes', [256, 257, 65_536, 65_537])
def test_every_class_number_comes_back(classes):
    """All of them, at the widths of one, two and four bytes."""
    form = Format('top_k', classes, 'float32', k=1)
    some = torch.unique(torch.cat([torch.arange(0, 300).clamp(max=classes - 1), torch.arange(classes - 300, classes).clamp(min=0), torch.tensor([32_767, 32_768]).clamp(max=classes - 1)]))
    z = torch.zeros(len(some), classes)
    z[torch.arange(len(some)), some] = 9.0
    assert torch.equal(form.unpack(form.pack(z)).classes[:, 0], some)


@pytest.mark.parametrize(('form', 'row'), [
    (Format('dense', 10, 'float32'), 40), (Format('dense', 1000, 'float16'), 2000), (Format('dense', 7, 'bfloat16'), 14),
    (Format('top_k', 256, 'float16', 8), 8 * 3 + 2), (Format('top_k', 257, 'float16', 8), 8 * 4 + 2),
    (Format('top_k', 65_536, 'float32', 8), 8 * 6 + 4), (Format('top_k', 65_537, 'bfloat16', 8), 8 * 6 + 2),
    (Format('sampled', 256, k=50), 100), (Format('sampled', 30_522, k=50), 150), (Format('sampled', 30_522, k=255), 765),
    (Format('sampled', 30_522, k=256), 1024), (Format('sampled', 100_000, k=50), 250),
], ids=lambda x: x.describe() + f', {x.classes}' if isinstance(x, Format) else '')
def test_bytes_of_a_row(form, row):
    assert form.row_bytes == row
    z = torch.randn(3, form.classes)
    assert form.pack(z, uniform_of(form, 3)).numel() == 3 * row
    assert form.sample_bytes(2.5) == 12 + 2.5 * row


@pytest.mark.parametrize('form', [
    Format('top_k', 1000, 'float16', 10), Format('top_k', 1000, 'float16', 5), Format('top_k', 30_522, 'float16', 8),
    Format('sampled', 30_522, k=50), Format('sampled', 1000, k=12), Format('dense', 10, 'float16'), Format('dense', 1000, 'float32'),
    Format('dense', 10, 'float32'), Format('top_k', 257, 'bfloat16', 4),
], ids=lambda form: f'{form.describe()}, {form.classes}')
@pytest.mark.parametrize('rows', ['one', 'about nineteen'])
def test_what_lies_on_disk_keeps_the_bound(tmp_path, form, rows):
    """All files of a store, per row: at most twice k times the bytes of a value and the number of its class."""
    counts = np.random.default_rng(0).binomial(128, 0.15, size=400) if rows == 'about nineteen' else np.ones(400, int)
    samples = 400 if rows == 'about nineteen' else 3000
    counts = np.resize(counts, samples)
    total = write_store(tmp_path, form, [rows_for(form, int(n), i) for i, n in enumerate(counts)])
    store = Store.open(tmp_path)
    assert store.bytes == sum(f.stat().st_size for f in tmp_path.rglob('*') if f.is_file())
    assert store.samples == samples
    # what the format says of a sample, and a little for the headers of the shards and the files that say what there is
    said = sum(form.sample_bytes(int(n)) for n in counts)
    assert total == sum(counts) * form.row_bytes
    assert said <= store.bytes <= said + 12_000
    if rows == 'about nineteen':
        assert store.bytes <= counts.sum() * form.bound
    else:
        assert store.bytes <= samples * form.bound + 12_000


def test_scattered_samples_take_a_key_more_and_keep_the_bound(tmp_path):
    form = Format('top_k', 1000, 'float16', 10)
    order = np.random.default_rng(0).permutation(4000)
    fill(tmp_path, form, [(0, int(i), 5) for i in order], lambda view, index: rows_for(form, 1, index))
    store = Store.open(tmp_path)
    assert store.bytes <= 4000 * form.bound
    assert store.bytes >= 4000 * (form.sample_bytes(1) + 8)


@pytest.mark.parametrize(('spec', 'message'), [
    ('topk', r"format: expected dense, top_k, sampled, got 'topk'.*top_k"),
    ({'name': 'top_k', 'kk': 3}, r"format.*kk.*k"),
    ({'name': 'dense', 'k': 3}, r"format.*k"),
    ({'name': 'dense', 'temperature': 3}, r"format.*temperature"),
    ({'name': 'sampled', 'dtype': 'float16'}, r"format.*dtype"),
    ({'name': 'top_k', 'k': 0}, r"format\.k: expected 1 class or more, got 0"),
    ({'name': 'top_k', 'k': True}, r"format\.k: .*got True"),
    ({'name': 'top_k', 'k': 2.5}, r"format\.k: .*got 2\.5"),
    ({'name': 'top_k', 'k': '3'}, r"format\.k: .*got '3'"),
    ({'name': 'top_k', 'k': 10}, r"format\.k: expected fewer than the 10 classes.*dense"),
    ({'name': 'sampled', 'k': 65_536}, r"format\.k: expected 65,535 draws or fewer, got 65536"),
    ({'name': 'top_k', 'k': 3, 'dtype': 'float61'}, r"format\.dtype: expected float32, float16, bfloat16, got 'float61'"),
    ({'name': 'dense', 'dtype': None}, r"format\.dtype: .*got None"),
    ({'name': 'dense', 'dtype': ['float16']}, r"format\.dtype: .*got \['float16'\]"),
    ({'name': 'top_k', 'k': 3, 'temperature': 0}, r"format\.temperature: expected a finite number above 0, got 0"),
    ({'name': 'top_k', 'k': 3, 'temperature': float('nan')}, r"format\.temperature: .*got nan"),
    ({'name': 'top_k', 'k': 3, 'temperature': 'hot'}, r"format\.temperature: .*got 'hot'"),
    ({'k': 3}, r"format"),
], ids=str)
def test_bad_settings_name_their_key(spec, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Format.read(spec, 10, 4.0)


@pytest.mark.parametrize('spec', [3, True, ['dense'], 2.5])
def test_what_is_no_format_at_all(spec):
    with pytest.raises((TypeError, ValueError), match='format'):
        Format.read(spec, 10, 4.0)


def test_what_is_taken_where_nothing_is_said():
    assert Format.read(None, 64, 4.0) == Format('dense', 64)
    assert Format.read(None, 65, 4.0) == Format('top_k', 65, temperature=4.0)
    assert Format.read({'name': 'top_k', 'temperature': 2}, 65, 4.0).temperature == 2
    assert Format.read('dense', 65, None) == Format('dense', 65)
    with pytest.raises(ValueError, match="format: 'top_k' keeps probabilities at one temperature.*Give a temperature"):
        Format.read('top_k', 65, None)
    assert Format.restore(Format('sampled', 65, k=9).plain()) == Format('sampled', 65, k=9)


@pytest.mark.parametrize('classes', [10, 256, 65_536])
def test_what_is_no_answer_comes_back_as_none(classes):
    """NaN, not a class: of that number plus one there is no class, and in as many bytes it is the first."""
    z = torch.zeros(5, classes)
    z[0, 3], z[1, 3], z[2], z[3, 3] = float('nan'), torch.inf, -torch.inf, -torch.inf
    for form in (Format('top_k', classes, 'float16', 4), Format('sampled', classes, k=4)):
        found = form.unpack(form.pack(z, uniform_of(form, 5)))
        assert found.log_probabilities.isnan().any(-1).tolist() == [True] * 3 + [False] * 2, form
        assert 0 <= found.classes.min() <= found.classes.max() < classes


def test_logits_beyond_float16_stay_finite():
    form = Format('dense', 3, 'float16')
    kept = form.unpack(form.pack(torch.tensor([[7e4, -1e6, float('-inf')]])))
    assert kept.tolist() == [[65504.0, -65504.0, float('-inf')]]
