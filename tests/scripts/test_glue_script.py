"""scripts/glue.py: processes, their order and failures, and two real fine-tunings from sample data."""

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from rich.progress import Progress

from composer_kd.models import build_model
from composer_kd.report import plan_jobs
from composer_kd.runs import RunFolder

ROOT = Path(__file__).parent.parent.parent
SIZES = {'vocab_size': 2000, 'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 32,
         'max_position_embeddings': 64}


def loaded(path):
    spec = importlib.util.spec_from_file_location(f'script_{path.stem}_{path.parent.name}', path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


script = loaded(ROOT / 'scripts' / 'glue.py')
RECORD = '''
    import sys, time
    from composer_kd.runs import Record, RunFolder
    folder, name, status, code, seconds = sys.argv[1:]
    print('working on', name, flush=True)
    started = time.time()
    time.sleep(float(seconds))
    RunFolder(f'{folder}/{name}').write_record(Record(
        run_name=name, started_at=str(started), updated_at=str(time.time()), status=status))
    sys.exit(int(code))
'''


def run(folder, jobs, devices, done=(), seconds=0.0, **fates):
    """Runs with processes that only write a record; ``fates`` says by task how they end."""
    begun = []

    def begin(job, device):
        begun.append((job.name, device))
        status, code = fates.get(job.task, ('finished', 0))
        log = open(folder / 'logs' / f'{job.name}.txt', 'wb')  # noqa: SIM115
        process = subprocess.Popen(
            [sys.executable, '-c', textwrap.dedent(RECORD), str(folder), job.name, status, str(code), str(seconds)], stdout=log, stderr=log,
            env={**os.environ, 'PYTHONPATH': str(ROOT)}, start_new_session=True)
        return script.Running(job, device, process, log, progress.add_task(job.name, state=''))

    (folder / 'logs').mkdir()
    done = set(done)
    with Progress(disable=True) as progress:
        whole = progress.add_task('all', total=len(jobs), state='')
        failed = script.run_all(jobs, done, devices, begin, folder, progress, whole)
    return begun, done, failed


def test_each_runs_after_what_it_needs_and_on_a_free_device(tmp_path):
    jobs = plan_jobs(tmp_path, [], ['mnli', 'rte', 'cola'], 2)
    begun, done, failed = run(tmp_path, jobs, ['3', '5'], done={'cola-seed19'})
    names = [name for name, _ in begun]
    assert failed == {}
    assert done == {job.name for job in jobs}
    assert 'cola-seed19' not in names, 'what is finished is kept'
    assert {device for _, device in begun} == {'3', '5'}
    records = {name: RunFolder(tmp_path / name).read_record() for name in names}
    assert float(records['mnli-seed19'].updated_at) < min(float(records[f'rte-seed{seed}'].started_at) for seed in (19, 8364))


@pytest.mark.parametrize('fate', [('finished', 1), ('unfinished', 0)])
def test_the_others_go_on_when_one_fails(tmp_path, fate):
    jobs = plan_jobs(tmp_path, [], ['mnli', 'rte', 'sst2'], 1)
    begun, done, failed = run(tmp_path, jobs, ['CPU'], mnli=fate)
    assert done == {'sst2-seed19'}
    assert failed['mnli-seed19'].startswith('working on mnli-seed19')
    assert failed['rte-seed19'] == 'not started: it needs mnli-seed19'
    assert [name for name, _ in begun] == ['mnli-seed19', 'sst2-seed19']


def test_an_interrupt_stops_the_runs(tmp_path):
    jobs = plan_jobs(tmp_path, [], ['sst2'], 1)
    (tmp_path / 'logs').mkdir()
    processes = []

    def begin(job, device):
        log = open(tmp_path / 'logs' / f'{job.name}.txt', 'wb')  # noqa: SIM115
        processes.append(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], stderr=log, start_new_session=True))
        return script.Running(job, device, processes[-1], log, progress.add_task(job.name, state=''))

    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt
    with Progress(disable=True) as progress:
        whole = progress.add_task('all', state='')
        progress.update = interrupted
        RunFolder(tmp_path / jobs[0].name).write_record(
            script.Record(run_name='a', started_at='', updated_at=''))
        with pytest.raises(KeyboardInterrupt):
            script.run_all(jobs, set(), ['CPU'], begin, tmp_path, progress, whole)
    assert processes[0].poll() is not None


def test_devices(monkeypatch):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    assert script.devices_of(None, 2) == ['0', '1', '2', '3']
    assert script.devices_of('1, 3', 2) == ['1', '3']
    assert script.devices_of('', 2) == ['CPU', 'CPU']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '6,7')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    assert script.devices_of(None, 2) == ['6', '7']
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    assert script.devices_of(None, 3) == ['CPU'] * 3


def test_where_it_starts_from(tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'recipe.yaml').touch()
    (tmp_path / 'a.pt').touch()
    assert script.start_from(str(tmp_path / 'run')) == [f"start_from.run={tmp_path / 'run'}"]
    assert script.start_from(str(tmp_path / 'a.pt')) == ['start_from.run=null', f"start_from.checkpoint={tmp_path / 'a.pt'}"]
    assert script.start_from('s3://bucket/a.pt')[1] == 'start_from.checkpoint=s3://bucket/a.pt'
    with pytest.raises(FileNotFoundError, match="--from: there is no run folder and no checkpoint 'no/such'"):
        script.start_from('no/such')


@pytest.fixture(scope='module')
def sample(tmp_path_factory):
    from tests.models.words import tokenizer_folder

    folder = tmp_path_factory.mktemp('sample')
    loaded(ROOT / 'scripts' / 'sample_data' / 'glue.py').write(folder)
    tokenizer_folder(folder / 'tokenizer')
    torch.manual_seed(0)
    torch.save(build_model({'name': 'bert_masked_lm', **SIZES}).state_dict(), folder / 'start.pt')
    return folder


def arguments(sample, folder, *further):
    return ['--from', str(sample / 'start.pt'), '--path', str(sample / 'glue'), '--folder', str(folder), '--gpus', '', '--workers', '2',
            '--seeds', '1', f"train_data.tokenizer={sample / 'tokenizer'}", 'train_data.max_seq_len=32', 'train_data.num_workers=0',
            'max_duration=4ba', 'scheduler=null', 'save_interval=1dur', 'eval_interval=1dur',
            *(f'model.{name}={size}' for name, size in SIZES.items()), *further]


def test_what_cannot_be_run_is_told_before_anything_is(sample, tmp_path):
    def told(*further):
        result = CliRunner().invoke(script.main, arguments(sample, tmp_path / 'runs', *further))
        assert not (tmp_path / 'runs').exists()
        return str(result.exception)

    assert "rte-seed19 start from mnli-seed19, and there is no such finished run" in told('--tasks', 'rte')
    assert "Did you mean 'cola'" in told('--tasks', 'colla')
    assert "Did you mean 'optimizer'" in told('--tasks', 'cola', 'optimzer=1')


def test_an_mnli_run_that_began_elsewhere_is_not_started_from(tmp_path):
    folder = RunFolder(tmp_path / 'mnli-seed19')
    folder.write_recipe({'start_from': {'run': 'runs/other'}})
    script.check_beginning(folder.path, ['start_from.run=runs/other'])
    with pytest.raises(ValueError, match="itself started from 'runs/other', and 'runs/bert-base' is asked for"):
        script.check_beginning(folder.path, ['start_from.run=runs/bert-base'])


def test_bad_settings_and_paths_are_told_before_anything_starts(sample, tmp_path):
    given = arguments(sample, tmp_path / 'runs', '--tasks', 'cola')
    wrong = CliRunner().invoke(script.main, [*given, 'train_data.numworkers=3'])
    assert "cola-seed19: train_data: unknown key 'numworkers'. Did you mean 'num_workers'" in str(wrong.exception)
    given[given.index('--path') + 1] = 'no/such'
    assert "--path: there is no folder 'no/such'" in str(CliRunner().invoke(script.main, given).exception)
    assert not (tmp_path / 'runs').exists()


@pytest.mark.slow
def test_two_real_tasks_and_again(sample, tmp_path):
    given = arguments(sample, tmp_path / 'runs', '--tasks', 'cola,stsb')
    # as if the MNLI run were there: what stsb starts from is another checkpoint of that shape
    folder = RunFolder(tmp_path / 'runs' / 'mnli-seed19')
    folder.write_recipe({'model': {'name': 'bert_classifier', **SIZES, 'num_labels': 3}, 'start_from': {'checkpoint': str(sample / 'start.pt')}})
    folder.checkpoints.mkdir()
    torch.save({'state': {'model': build_model(folder.read_recipe()['model']).state_dict()}}, folder.checkpoints / 'ep3-ba9-rank0.pt')
    folder.write_record(script.Record(run_name='mnli', started_at='', updated_at='', status='finished'))
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'COLUMNS': '120'}
    done = subprocess.run([sys.executable, str(ROOT / 'scripts' / 'glue.py'), *given], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, timeout=600)
    logs = ''.join(path.read_text() for path in (tmp_path / 'runs' / 'logs').iterdir())
    assert done.returncode == 0, done.stdout + done.stderr + logs
    assert '2 runs, 0 of them finished already, on CPU, CPU.' in done.stdout
    for name, metric in (('cola-seed19', 'MulticlassMatthewsCorrCoef'), ('stsb-seed19', 'SpearmanCorrCoef')):
        run = RunFolder(tmp_path / 'runs' / name)
        assert list(run.read_record().evaluations[-1].metrics['validation']) == [metric]
        assert run.read_recipe()['seed'] == 19
    text = (tmp_path / 'runs' / 'glue.csv').read_text()
    assert [line.split(',')[1] for line in text.splitlines()] == ['task', 'CoLA', 'STS-B']
    again = CliRunner().invoke(script.main, given)
    assert again.exit_code == 0, again.output
    assert '2 runs, 2 of them finished already' in again.output
    assert 'Spearman' in again.output
    assert (tmp_path / 'runs' / 'glue.csv').read_text() == text


def test_sample_data_is_what_it_says(sample):
    """The same each time, of the documented sizes, every label about as often, dev apart from train."""
    from composer_kd.recipes.tasks.glue import TASKS, read_file
    from composer_kd.recipes.tasks.glue.files import find_file

    module = sys.modules['script_glue_sample_data']
    for name, task in TASKS.items():
        read = {split: read_file(find_file(sample / 'glue', task, split), task, split) for split in task.sizes}
        assert [len(labels) for _, labels in read.values()] == [module.TRAIN, *[module.DEV] * (len(read) - 1)]
        whole = 1 if name == 'qnli' else 0  # its questions are the beginnings of sentences
        firsts = [{sentences[whole] for sentences in texts} for texts, _ in read.values()]
        assert not firsts[0] & set().union(*firsts[1:]), f'{name}: dev holds sentences of train'
        for _, labels in read.values():
            if task.classes:
                assert {labels.count(c) for c in range(len(task.classes))} <= {len(labels) // len(task.classes) + i for i in (0, 1)}
            else:
                assert min(labels) < 1
                assert max(labels) > 3
        for texts, labels in read.values():
            for sentences, label in zip(texts, labels, strict=True):
                if name == 'stsb':
                    assert label == pytest.approx(5 * module.overlap(*sentences), abs=1e-3)
                elif name in ('mrpc', 'qqp'):
                    assert (set(sentences[1].split()) < set(sentences[0].split())) == bool(label)
                elif name == 'sst2':
                    assert (len(sentences[0].split()) > 14) == bool(label)
