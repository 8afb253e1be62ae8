"""Every study in yamls/ is one that would begin: its runs' recipes build, with the metric and distillation it names."""

import re

import pytest

from composer_kd.studies.file.schema import StudySpec, load_study
from composer_kd.studies.rules.planned import planned_runs
from composer_kd.studies.training.making import check
from composer_kd.studies.work.rehearsal import kinds
from tests.yamls.overlay import ROOT, STUDIES

README = (ROOT / 'yamls' / 'studies' / 'README.md').read_text()


@pytest.mark.parametrize('path', STUDIES, ids=[path.stem for path in STUDIES])
def test_its_runs_could_be_made(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    spec = load_study(path)
    looked = list(kinds(spec))
    assert {method for method, _ in looked} >= set(spec.methods)
    # Models of full size take their time and are looked at with the recipes; here one of each method does.
    for job in dict(looked).values():
        check(job)


@pytest.mark.parametrize('path', STUDIES, ids=[path.stem for path in STUDIES])
def test_its_header_says_how_to_start_it_and_the_readme_how_many_runs_it_has(path):
    header = path.read_text().split('name:')[0]
    assert f'composer-kd study run yamls/studies/{path.name}' in header
    assert re.search(r'minutes on two cores|Hardware: 8x A100', header)
    if '8x A100' in header:
        assert 'Published' in header
    count = len(list(planned_runs(load_study(path))))
    [row] = [line for line in README.splitlines() if line.startswith('| [') and f'({path.name})' in line]
    stems = re.findall(r'\((\w+\.yaml)\)', row)
    counts = [int(number) for number in row.split('|')[3].split(',')]
    assert dict(zip(stems, counts, strict=True))[path.name] == count


def test_every_key_of_a_study_file_is_in_the_readme():
    part = README.split('## What a study file says')[1].split('\n## ')[0]
    for name in StudySpec.model_fields:
        assert f'`{name}`' in part, name
    for name, field in StudySpec.model_fields.items():
        if name in ('where', 'report', 'teachers'):
            inner = next(kind for kind in [field.annotation, *getattr(field.annotation, '__args__', ())]
                         if hasattr(kind, 'model_fields'))
            for key in inner.model_fields:
                assert re.search(rf'\b{key}\b', part), f'{name}.{key}'
