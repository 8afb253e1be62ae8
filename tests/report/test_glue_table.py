import csv
import io
import statistics
from pathlib import Path

import pytest

from composer_kd.report import Line, glue_csv, glue_mean, glue_table, next_job, plan_jobs, read_lines, to_text, unmet
from composer_kd.report.glue_jobs import SEEDS, TASKS
from composer_kd.runs import Evaluation, Record, RunFolder

FOLDER, START = Path('runs/glue'), ['start_from.run=runs/bert-base']
RECIPES = Path(__file__).parent.parent.parent / 'yamls' / 'glue'


def by_name(jobs):
    return {job.name: job for job in jobs}


def test_the_published_table():
    jobs = plan_jobs(FOLDER, START)
    counts = {task: [job.seed for job in jobs if job.task == task] for task in TASKS}
    assert {task: len(seeds) for task, seeds in counts.items()} == {
        'mnli': 1, 'qqp': 1, 'qnli': 1, 'sst2': 3, 'cola': 4, 'rte': 5, 'mrpc': 5, 'stsb': 5}
    assert all(seeds == list(SEEDS[:len(seeds)]) for seeds in counts.values())
    assert len({job.name for job in jobs}) == len(jobs) == 25
    for job in jobs:
        assert (RECIPES / job.recipe).is_file()
        assert job.overrides[:2] == (f'seed={job.seed}', f'run_folder=runs/glue/{job.name}')
        later = job.task in ('rte', 'mrpc', 'stsb')
        assert job.needs == (('mnli-seed19',) if later else ())
        assert job.overrides[2:] == (('start_from.run=runs/glue/mnli-seed19',) if later else tuple(START))


def test_the_dearest_start_first_and_none_before_what_it_needs():
    jobs = plan_jobs(FOLDER, START)
    assert [job.task for job in jobs[:3]] == ['qqp', 'mnli', 'qnli']
    assert [job.cost for job in jobs] == sorted((job.cost for job in jobs), reverse=True)
    waiting, done = list(jobs), set()
    while waiting:
        job = next_job(waiting, done)
        assert set(job.needs) <= done
        waiting.remove(job)
        if job.name == 'mnli-seed19' and len(waiting) == 23:
            assert next_job(waiting, done).task == 'qnli', 'what needs MNLI waits until it is finished'
        done.add(job.name)
    assert next_job([by_name(jobs)['rte-seed19']], {'qqp-seed19'}) is None


def test_a_choice_of_tasks_and_seeds():
    assert [job.name for job in plan_jobs(FOLDER, START, ['cola', 'sst2', 'cola'], 1)] == ['sst2-seed19', 'cola-seed19']
    assert len(plan_jobs(FOLDER, START, ['mnli'], 5)) == 5
    with pytest.raises(ValueError, match="tasks: expected names among .* got 'colla'. Did you mean 'cola'"):
        plan_jobs(FOLDER, START, ['colla'])
    for seeds in (0, 6):
        with pytest.raises(ValueError, match=f'seeds: expected 1 to 5 runs of each task, got {seeds}'):
            plan_jobs(FOLDER, START, seeds=seeds)


def test_taught_tasks_are_run_twice_and_wait_for_their_teacher():
    jobs = by_name(plan_jobs(FOLDER, START, ['mnli', 'rte'], 2, {'rte', 'stsb'}))
    plain = {f'{kind}-seed{seed}' for kind in ('mnli', 'rte') for seed in (19, 8364)}
    assert set(jobs) == plain | {'rte-kd-seed8364', 'rte-kd-seed717'}, "not the teacher's own seed"
    job = jobs['rte-kd-seed8364']
    assert (job.method, job.recipe, job.needs) == ('kd', 'rte_kd.yaml', ('mnli-seed19', 'rte-seed19'))
    assert job.overrides[2:] == (
        'start_from.run=runs/glue/mnli-seed19', 'algorithms.distillation.teachers[0].run=runs/glue/rte-seed19')
    assert list(jobs).index('rte-seed19') < list(jobs).index('rte-seed8364'), 'a teacher first'


def test_what_can_never_start():
    jobs = plan_jobs(FOLDER, START, ['rte', 'cola'], 1)
    assert unmet(jobs, lambda name: False) == {'rte-seed19': 'mnli-seed19'}
    assert unmet(jobs, lambda name: name == 'mnli-seed19') == {}
    assert unmet(plan_jobs(FOLDER, START), lambda name: False) == {}


def record(folder, name, quality, status='finished', batches=8):
    metrics = {}
    for key, value in quality.items():
        label, metric = key.split('/')
        metrics.setdefault(label, {})[metric] = value
    RunFolder(folder / name).write_record(Record(
        run_name=name, started_at='', updated_at='', status=status, batches=batches,
        evaluations=[Evaluation(batch=4, epoch=1, sample=1, train_seconds=1, metrics={'validation': {'MulticlassAccuracy': 0.0}}),
                     Evaluation(batch=8, epoch=2, sample=2, train_seconds=2, metrics=metrics)]))


@pytest.fixture
def whole(tmp_path):
    """A folder with every run, the scores rising with the seed's place; and the jobs."""
    jobs = plan_jobs(tmp_path, START, taught={'rte'})
    for job in jobs:
        place = SEEDS.index(job.seed) + (10 if job.method == 'kd' else 0)
        record(tmp_path, job.name, {score.key: score.published / 100 - 0.01 + 0.001 * place for score in TASKS[job.task].scores})
    return tmp_path, jobs


def test_scores_are_read_from_finished_runs(whole):
    folder, jobs = whole
    record(folder, 'cola-seed10536', {'validation/MulticlassMatthewsCorrCoef': 0.9}, status='unfinished')
    (folder / 'sst2-seed19' / 'record.json').write_text('{')
    RunFolder(folder / 'sst2-seed717').record_path.unlink()
    lines = read_lines(folder, jobs)
    assert [(line.method, line.task, line.metric) for line in lines] == [
        ('baseline', 'MNLI', 'accuracy, matched'), ('baseline', 'MNLI', 'accuracy, mismatched'), ('baseline', 'QQP', 'F1'),
        ('baseline', 'QQP', 'accuracy'), ('baseline', 'QNLI', 'accuracy'), ('baseline', 'SST-2', 'accuracy'),
        ('baseline', 'CoLA', 'Matthews'), ('baseline', 'RTE', 'accuracy'), ('baseline', 'MRPC', 'F1'),
        ('baseline', 'MRPC', 'accuracy'), ('baseline', 'STS-B', 'Spearman'), ('kd', 'RTE', 'accuracy')]
    found = {(line.method, line.task, line.metric): line for line in lines}
    assert list(found['baseline', 'CoLA', 'Matthews'].values) == [19, 8364, 717], 'the unfinished one is left out'
    assert list(found['baseline', 'SST-2', 'accuracy'].values) == [8364], 'those without a record as well'
    rte = found['baseline', 'RTE', 'accuracy']
    wanted = [75.65 + 0.1 * place for place in range(5)]
    assert list(rte.values.values()) == pytest.approx(wanted)
    assert (rte.mean, rte.sd) == pytest.approx((statistics.mean(wanted), statistics.stdev(wanted)))
    assert found['baseline', 'QNLI', 'accuracy'].sd is None
    assert (rte.published, found['kd', 'RTE', 'accuracy'].published) == (76.65, None)


def test_a_run_without_its_score_is_told(whole):
    folder, jobs = whole
    record(folder, 'mrpc-seed717', {'validation/MulticlassAccuracy': 0.5})
    with pytest.raises(ValueError, match=r"mrpc with seed 717 \(baseline\) did not end with an evaluation of 'validation/BinaryF1Score'"):
        read_lines(folder, jobs)
    record(folder, 'mrpc-seed717', {'validation/MulticlassAccuracy': 0.5, 'validation/BinaryF1Score': 0.5}, batches=9)
    with pytest.raises(ValueError, match='its last one has nothing'):
        read_lines(folder, jobs)


def test_the_mean_is_that_of_the_tasks():
    values = {(task.title, score.name): 100.0 for task in TASKS.values() for score in task.scores}
    assert glue_mean(values) == 100
    assert glue_mean({**values, ('QQP', 'F1'): 0.0}) == pytest.approx(100 - 100 / 16), 'half of an eighth'
    assert glue_mean({**values, ('CoLA', 'Matthews'): 0.0}) == pytest.approx(100 - 100 / 8)
    del values['MNLI', 'accuracy, matched']
    assert glue_mean(values) is None


def test_tables(whole):
    folder, jobs = whole
    lines = read_lines(folder, jobs)
    text = to_text(glue_table(lines))
    rows = [[cell.strip() for cell in line.strip('│┃ ').split('│')] for line in text.splitlines() if line.startswith('│')]
    assert ['baseline', 'RTE', 'accuracy', '5', '75.85 ± 0.16', '76.65'] in rows
    assert ['baseline', 'MNLI', 'accuracy, matched', '1', '83.30', '84.30'] in rows
    assert ['kd', 'RTE', 'accuracy', '4', '76.90 ± 0.13', '-'] in rows
    mean = glue_mean({(line.task, line.metric): line.mean for line in lines if line.method == 'baseline'})
    assert ['baseline', 'GLUE', 'mean', '', f'{mean:.2f}', '83.73'] in rows
    assert not any(row[:2] == ['kd', 'GLUE'] for row in rows), 'only where all eight tasks are there'
    alone = to_text(glue_table([line for line in lines if line.method == 'baseline']))
    assert 'baseline' not in alone
    parsed = list(csv.DictReader(io.StringIO(glue_csv(lines))))
    assert len(parsed) == len(lines) + 1
    rte = next(row for row in parsed if (row['method'], row['task']) == ('baseline', 'RTE'))
    assert (rte['runs'], rte['mean'], rte['sd'], rte['published']) == ('5', '75.8500', '0.1581', '76.65')
    assert rte['by_seed'].split() == [f'{seed}:{75.65 + 0.1 * place:.4f}' for place, seed in enumerate(SEEDS)]
    assert parsed[-1]['task'] == 'GLUE'
    assert float(parsed[-1]['mean']) == pytest.approx(mean, abs=1e-3)


def test_a_table_of_one_run():
    line = Line('baseline', 'RTE', 'accuracy', {19: 70.0}, 76.65)
    assert '70.00' in to_text(glue_table([line]))
    assert 'GLUE,mean' not in glue_csv([line])
