"""scripts/benchmark.py: its sums, its turns, and every section of it on tiny models. No time is held against anything."""

import json
import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest
from benchmarking import sums
from benchmarking.machine import peak_of
from benchmarking.overhead import MEASURES, NONE, OFF, PLAIN, Measure, overhead_of, removed_by
from benchmarking.peers import PEERS
from benchmarking.results import short_bytes, short_growth, short_seconds
from benchmarking.turns import Measured

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]), 'OMP_NUM_THREADS': '1'}


def benchmark(*arguments, cwd=None):
    return subprocess.run([sys.executable, str(ROOT / 'scripts' / 'benchmark.py'), *map(str, arguments)], cwd=cwd, env=ENVIRONMENT,
                          capture_output=True, text=True, timeout=600)


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp('benchmark')
    result = benchmark('all', '--small', '--device', 'cpu', '--rounds', 1, '--threads', 1, '--json', folder / 'a' / 'found.json',
                       '--markdown', folder / 'found.md', '--figure', folder / 'growth.png', '--peak-tflops', 0.5)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder, result


@pytest.fixture(scope='module')
def found(done):
    return json.loads((done[0] / 'a' / 'found.json').read_text())


@pytest.mark.slow
def test_the_machine_is_named(found, done):
    machine = found['machine']
    assert machine['cpu']
    assert machine['cores'] >= machine['threads'] == 1
    assert machine['gpu'] is None
    assert {'python', 'torch', 'mosaicml', 'composer_kd'} <= set(machine['versions'])
    assert found['command'] == 'scripts/benchmark.py all --small --device cpu --rounds 1 --threads 1'
    text = (done[0] / 'found.md').read_text()
    assert text.startswith(f"Measured on {machine['cpu']}, 1 of {machine['cores']} cores; torch ")
    assert str(ROOT) not in text


@pytest.mark.slow
def test_algorithm(found):
    cases = found['sections']['algorithm']
    assert len(cases) == 3
    for case in cases:
        assert set(case['parts']) == {'step with KD', 'bare student step', 'teacher forward', 'loss alone'}
        whole, *parts = (case['parts'][name]['rounds']['0'] for name in ('step with KD', 'bare student step', 'teacher forward', 'loss alone'))
        assert case['ratio']['median'] == pytest.approx(whole / sum(parts))
        assert case['reached'] == (case['ratio']['median'] <= 1.02)
        assert case['parts']['step with KD']['memory'] > 0


@pytest.mark.slow
def test_peers(found):
    images, texts = found['sections']['peers']
    plain = 'plain PyTorch, no KD'
    for case, ours in ((images, ['composer_kd']), (texts, ['composer_kd, all tokens', 'composer_kd, masked tokens'])):
        assert set(case['ours']) == set(ours)
        for name in (*ours, plain, 'plain PyTorch, KD', 'Composer, no KD'):
            assert case['variants'][name]['seconds']['median'] > 0, name
            assert case['variants'][name]['memory'] > 0, name
            assert case['over_bare'][name]['median'] == pytest.approx(
                case['variants'][name]['rounds']['0'] / case['variants'][plain]['rounds']['0'])
        rate = case['student'][plain]
        assert rate['mfu'] == pytest.approx(rate['tflops'] / 0.5)
    masked, everywhere = (texts['student'][name]['tflops'] * texts['variants'][name]['seconds']['median']
                          for name in ('Composer, no KD, head at masked tokens', 'Composer, no KD'))
    assert masked < everywhere, 'the head at fewer tokens is less work'
    assert texts['ours']['composer_kd, masked tokens']['over_no_kd_with_our_head']['median'] > 0
    assert [case['aim'] for case in texts['ours'].values()] == [0.65, 0.36]


@pytest.mark.slow
def test_all_compute_the_same_loss(found):
    images, texts = found['sections']['peers']
    different = ('no KD', 'masked tokens')
    for case in (images, texts):
        losses = {name: told['first_loss'] for name, told in case['variants'].items()
                  if 'failed' not in told and not any(word in name for word in different)}
        assert {'plain PyTorch, KD'} < set(losses)
        assert losses == pytest.approx(dict.fromkeys(losses, losses['plain PyTorch, KD']), rel=1e-3)
        assert case['variants']['plain PyTorch, no KD']['first_loss'] != pytest.approx(losses['plain PyTorch, KD'], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(('peer', 'package'), [(peer, peer) for peer in PEERS])
def test_a_peer(found, peer, package):
    for case in found['sections']['peers']:
        told = case['variants'][peer]
        if find_spec(package) is None:
            assert f"No module named '{package}" in told['failed']
        else:
            assert told['seconds']['median'] > 0
            assert case['fastest_peer'] in PEERS
            for ours in case['ours'].values():
                assert ours['over_fastest_peer']['median'] > 0
                assert ours['memory_over_leanest_peer'] > 0


@pytest.mark.slow
def test_overhead(found):
    case, = found['sections']['overhead']
    assert set(case['measures']) == {'2 teachers, always on, unprepared', *(measure.name for measure in MEASURES)}
    assert all(kind['seconds']['median'] > 0 for kind in case['kinds'].values())
    assert len(case['kinds']) == 8
    plain, off, none = (case['kinds'][kind]['rounds']['0'] for kind in (PLAIN, OFF, NONE))
    first = case['measures']['first 25 %']
    assert first['overhead']['median'] == pytest.approx((0.25 * plain + 0.75 * off) / none - 1)
    assert first['removed']['median'] == pytest.approx(1 - (0.25 * plain + 0.75 * off - none) / (plain - none))


@pytest.mark.slow
def test_growth(found, done):
    curves = {case['curve']: case for case in found['sections']['growth']}
    assert {name: case['points'] for name, case in curves.items()} == {
        'teachers': [1, 2], 'classes': [10, 100], 'sequence length': [16, 32], 'microbatches': [1, 2]}
    for case in curves.values():
        assert case['failed'] == {}
        for line in ('step with KD', 'step without', "KD's own"):
            assert list(case['seconds'][line]) == [str(point) for point in case['points']]
        assert case['growth']['step with KD']['kind'] in ('flat', 'linear', 'below linear', 'above linear')
    assert len({curves['teachers']['seconds']['step without'][n]['median'] for n in '12'}) == 1, 'no KD has no teachers'
    assert 'loss alone' in curves['classes']['seconds']
    assert (done[0] / 'growth.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.slow
def test_tables(done, found):
    folder, result = done
    text = (folder / 'found.md').read_text()
    for title in ('Algorithm cost', 'BERT-base from BERT-base, 16 tokens', 'KD overhead removed', 'Growth with teachers'):
        assert title in text
        assert title in result.stdout
    tables = [part.splitlines() for part in text.split('\n\n') if part.startswith('|')]
    assert len(tables) == 1 + len(found['sections']['peers']) + 2 + 4
    for header, rule, *rows in tables:
        assert set(rule) <= set('|-:')
        assert rows
        assert {row.count('|') for row in (header, *rows)} == {rule.count('|')}
    assert '| composer_kd, masked tokens |' in text


@pytest.mark.parametrize(('arguments', 'told'), [
    (['algorithm', '--threads', '4096'], '--threads: expected '),
    (['algorithm', '--rounds', '0'], "Invalid value for '--rounds'"),
    (['peers', '--prepare', '{compile: true'], '--prepare: expected YAML'),
    (['peers', '--prepare', '{compil: true}'], "Did you mean 'compile'"),
    (['overhead', '--figure', 'a.png'], '--figure: the figure is of growth, and overhead does not measure it'),
    (['growth', '--figure', 'a.jpg'], "--figure: expected a file that ends in '.png', got 'a.jpg'"),
    (['growth', '--json', 'a.txt'], "--json: expected a file that ends in '.json', got 'a.txt'"),
    (['growth', '--device', 'cuda'], '--device: expected a GPU for cuda, and PyTorch finds none'),
])
def test_bad_input_is_told_before_anything_runs(arguments, told, monkeypatch, tmp_path):
    import benchmark
    import torch
    from click.testing import CliRunner

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(benchmark, 'measure', lambda *_: pytest.fail('it ran'))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(benchmark.main, arguments, env={'COLUMNS': '300'})
    assert result.exit_code == 2
    assert told in ' '.join(result.output.split())


SERVES = '''
    import os, sys, time

    def steady(clock, seconds, log):
        clock.tell(name='steady')
        while clock.next():
            open(log, 'a').write(f'{seconds} ')
            time.sleep(seconds)

    def broken(clock):
        import there_is_no_such_module

    def killed(clock, after):
        count = 0
        while clock.next():
            count += 1
            if count > after:
                os._exit(9)

    if __name__ == '__main__':
        import json
        sys.path.append(sys.argv[1])
        from benchmarking import turns
        from benchmarking.process import Variant
        if len(sys.argv) > 3:
            turns._room = lambda seats, coming: len(seats) + coming < 2
        log = sys.argv[2]
        variants = [Variant('a', 'serves:steady', {'seconds': 0.3, 'log': log}), Variant('b', 'serves:broken'),
                    Variant('c', 'serves:killed', {'after': 5}), Variant('d', 'serves:steady', {'seconds': 0.25, 'log': log})]
        if len(sys.argv) > 3:
            variants[1:3] = [Variant(name, 'serves:steady', {'seconds': 0.22, 'log': log}) for name in 'ef']
        found = turns.take_turns(variants, 'a', turns.Options(False, 1, 3, 60, 0.02))
        print(json.dumps([found.seconds, found.failed, found.facts, found.memory]))
'''


@pytest.fixture
def serves(tmp_path):
    (tmp_path / 'serves.py').write_text(textwrap.dedent(SERVES))
    return tmp_path


def taken(serves, *further):
    result = subprocess.run([sys.executable, 'serves.py', str(ROOT / 'scripts'), 'log.txt', *further], cwd=serves, env=ENVIRONMENT,
                            capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1]), (serves / 'log.txt').read_text().split()


def test_turns_one_at_a_time_and_a_variant_that_fails_stops_no_other(serves):
    (seconds, failed, facts, memory), log = taken(serves)
    assert {name: list(rounds) for name, rounds in seconds.items()} == {'a': ['0', '1', '2'], 'd': ['0', '1', '2']}
    assert all(0.29 < value < 10 for value in seconds['a'].values())
    assert failed['b'] == "ModuleNotFoundError: No module named 'there_is_no_such_module'"
    assert 'exit code 9' in failed['c']
    assert facts['a'] == {'name': 'steady'}
    assert set(memory) >= {'a', 'd'}
    assert sorted(log) == ['0.25'] * 10 + ['0.3'] * 10, 'two turns to warm up and three, each of a step that is not timed and one that is'


def test_those_for_which_there_is_no_memory_come_later_beside_the_reference(serves):
    (seconds, failed, _, _), _ = taken(serves, 'two seats')
    assert failed == {}
    assert list(seconds['a']) == [str(n) for n in range(9)], 'in every round'
    assert [list(seconds[name]) for name in 'efd'] == [['0', '1', '2'], ['3', '4', '5'], ['6', '7', '8']]


def measured(**seconds):
    return Measured(seconds={name: dict(enumerate(values)) for name, values in seconds.items()})


def test_ratios_are_of_the_same_round():
    found = sums.ratio(measured(a=[1.0, 2.0, 4.0, 8.0, 16.0], b=[2.0, 4.0, 8.0, 16.0, 16.0]), 'a', 'b')
    assert found == sums.Spread(0.5, 0.5, 0.5)
    assert sums.ratio(measured(a=[1.0]), 'a', 'b') is None


def test_ratios_across_groups_go_by_the_reference():
    group = Measured(seconds={'r': {0: 1.0, 1: 2.0}, 'a': {0: 3.0}, 'b': {1: 12.0}}, reference='r')
    assert sums.ratio(group, 'a', 'b').median == pytest.approx(0.5)
    assert sums.by_round(group, ['a', 'b'], lambda a, b: a - b, relative=False) is None


def test_spread():
    assert sums.spread([3.0, 1.0, 2.0, 4.0, 5.0]) == sums.Spread(3.0, 2.0, 4.0)
    assert sums.spread([2.0, 1.0]) == sums.Spread(1.5, 1.0, 2.0)
    with pytest.raises(ValueError, match='got none'):
        sums.spread([])


def test_growth_of_a_line_and_its_cliffs():
    flat = sums.growth([(1, 5.0), (2, 5.0), (4, 5.2)])
    assert (flat.kind, flat.cliffs) == ('flat', [])
    cliff = sums.growth([(1, 1.0), (2, 2.0), (4, 5.4), (8, 10.8)])
    assert (cliff.kind, cliff.cliffs) == ('linear', [(2, 4)])
    assert 'cliff from 2 to 4' in short_growth(cliff)
    # ten times the classes at 2.6 a doubling: 2.6 ** log2(10)
    assert sums.growth([(10, 1.0), (100, 23.8)]).cliffs == []
    assert sums.growth([(10, 1.0), (100, 24.1)]).cliffs == [(10, 100)]
    assert sums.growth([(1, 1.0)]).kind == 'not known'
    assert sums.growth([(1, 1.0), (2, -0.1)]).slope is None


def test_what_a_schedule_removes():
    # five teachers cost 1.5 steps, an off batch nothing
    group = measured(**{NONE: [1.0, 2.0], OFF: [1.0, 2.0], PLAIN: [2.5, 5.0], 'one': [1.3, 2.6]})
    assert overhead_of(group, Measure('', PLAIN, 1.0)).median == pytest.approx(1.5)
    assert overhead_of(group, Measure('', 'one', 0.25)).median == pytest.approx(0.075)
    assert removed_by(group, Measure('', PLAIN, 0.25)).median == pytest.approx(0.75)
    assert removed_by(group, Measure('', 'one', 0.25)).median == pytest.approx(0.95)


def test_words():
    assert (short_seconds(sums.Spread(1.234, 1, 2)), short_seconds(sums.Spread(0.01234, 0, 1)), short_seconds(None)) == ('1.23 s', '12.3 ms', '-')
    assert (short_bytes(2_345_000_000), short_bytes(12_000_000), short_bytes(None)) == ('2.35 GB', '12 MB', '-')
    assert peak_of('NVIDIA H200') == peak_of('NVIDIA H100 80GB HBM3') == 989.4
    assert peak_of('NVIDIA H100 NVL') == 835.5
    assert (peak_of('NVIDIA A100-SXM4-80GB'), peak_of('Tesla T4')) == (311.9, None)
