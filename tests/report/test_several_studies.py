from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from composer_kd.report.study_report import gather
from tests.report.synthetic import METHODS, METRIC, comparison, note, run

TWO = {name: METHODS[name] for name in ('baseline', 'always on')}


def half(folder: Path, seeds: range, **changes) -> Path:
    """A study of two methods with these seeds only."""
    comparison(folder, TWO, seeds=max(seeds) + 1, earlier=1, **changes)
    for path in (folder / 'runs').glob('*-seed*'):
        if int(path.name.rpartition('seed')[2]) not in seeds:
            shutil.rmtree(path)
    return folder


def test_studies_that_agree_are_reported_together(tmp_path):
    one, other = half(tmp_path / 'one', range(2)), half(tmp_path / 'other', range(2, 4), title='More seeds')
    found = gather([one, other / 'study.json', one])
    assert found.asked.label == 'Test accuracy'
    assert dict(found.facts)['Runs'].startswith('32 (2 methods, 4 durations, 4 seeds); 2 earlier')
    assert found.title == 'Noisy handwritten digits, More seeds'
    assert found.folder == Path('report'), 'that of neither'
    below = gather([tmp_path])
    assert (below.headline, below.facts, below.title) == (found.headline, found.facts, found.title)


def test_studies_below_a_folder_have_their_notes(tmp_path):
    study = comparison(tmp_path / 'all' / 'deep' / 'digits', TWO, seeds=3)
    run(study / 'kept' / 'old', method='old', duration=2, seed=0, quality=0.5)
    run(tmp_path / 'all' / 'tried', method='mine', duration=2, seed=0, quality=0.5)
    note(tmp_path / 'all' / 'empty', 'search', ['other'])
    found = gather([tmp_path / 'all'])
    alone = gather([study])
    assert (found.title, found.headline, found.facts, found.folder) == (
        alone.title, alone.headline, alone.facts, alone.folder,
    )
    [(folder, reason)] = found.left_out.items()
    assert folder.name == 'tried'
    assert 'belongs to none of the studies' in reason
    assert found.runs == alone.runs + 1
    assert gather([study, tmp_path / 'all', tmp_path / 'all' / 'tried']).left_out == {}


@pytest.mark.parametrize(('changes', 'differ', 'settings'), [
    ({'kind': 'sequence'}, 'kind', None),
    ({'metric': 'test/CrossEntropy'}, 'metric', {'metric': METRIC}),
    ({'higher_is_better': False}, 'higher_is_better', {'higher_is_better': True}),
    ({'baseline': None}, 'baseline', {'baseline': 'baseline'}),
    ({'methods': ['baseline']}, 'methods', None),
    ({'steady_price': True}, 'steady_price', {'steady': False}),
    ({'metric': 'test/CrossEntropy', 'higher_is_better': False}, 'metric, higher_is_better', {'metric': METRIC}),
])
def test_studies_that_differ_are_refused(tmp_path, changes, differ, settings):
    one, other = half(tmp_path / 'one', range(2)), half(tmp_path / 'other', range(2, 4))
    alone = gather([one, other])
    fields = {'kind': 'comparison', 'methods': list(TWO)} | changes
    note(other, fields.pop('kind'), fields.pop('methods'), **{'baseline': 'baseline'} | fields)
    for paths in ([one, other], [other, one], [tmp_path]):
        with pytest.raises(ValueError, match=rf"differ in {differ}, .*'o.*'\)?.* Give one at a time") as error:
            gather(paths)
        assert "'one' (" in str(error.value)
        assert "'other' (" in str(error.value)
        if settings is not None:
            assert gather(paths, **settings).headline == alone.headline, 'said by the caller'
