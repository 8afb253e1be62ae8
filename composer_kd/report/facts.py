"""What the answer of a report rests on, and what may make it wrong."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from composer_kd.report.asked import Asked
from composer_kd.report.plots_words import of_many
from composer_kd.report.rows import Row

_FEW_SEEDS = 3

# Costs that depend on the machine, in words.
_OF_A_MACHINE = {
    'train_seconds': 'times', 'wall_seconds': 'times', 'gpu_hours': 'hours of training', 'money': 'costs in money',
}


def machine_of(folder: Path) -> str:
    """The machine of a run in words, as its record has it; empty if it says nothing.

    Read without the record's schema, which has been held against the file before.
    """
    try:
        record = json.loads((folder / 'record.json').read_text(encoding='utf-8'))
        hardware, ranks = record['hardware'], int(record['world_size'])
        if hardware['gpu']:
            return f"{hardware['gpu_count'] or ranks}x {hardware['gpu']}"
        cores = f", {hardware['cpu_cores']} cores" if hardware['cpu_cores'] else ''
        return f"{hardware['cpu']}{cores}" if hardware['cpu'] else ''
    except (OSError, ValueError, KeyError, TypeError):
        return ''


def machines(rows: Iterable[Row]) -> Counter[str]:
    """How many runs each kind of machine made."""
    return Counter(machine for row in rows if (machine := machine_of(row.folder)))


def facts(
    rows: Sequence[Row], left_out: Mapping[Path, str], asked: Asked, made_on: Mapping[str, int],
) -> list[tuple[str, str]]:
    """Name and value of what an answer rests on: runs, quality, cost, machine.

    Args:
        rows: All runs.
        left_out: Those that are not in the answer.
        asked: What was asked for.
        made_on: Number of runs by machine.
    """
    counted = [row for row in rows if not row.is_earlier]
    earlier = len(rows) - len(counted)
    used = len([row for row in counted if row.folder not in left_out])
    runs = f'{used} of {len(counted)}' if used < len(counted) else f'{used}'
    methods, kinds = len({row.method for row in counted}), {row.kind for row in counted}
    seeds, durations = len({row.replicate for row in counted}), len({row.duration for row in counted})
    shape = [of_many(methods, 'method')]
    if kinds == {'search'}:
        shape.append(of_many(seeds, 'search', 'searches') + ' of each')
    elif kinds == {'sequence'}:
        shape += [of_many(len({row.index for row in counted}), 'step'), of_many(seeds, 'seed')]
    else:
        shape += [of_many(durations, 'duration'), of_many(seeds, 'seed')]
    words = [f"{runs} ({', '.join(shape)})", *([f'{of_many(earlier, "earlier run")} to learn from'] if earlier else [])]
    open_ended = sum(not row.finished for row in counted if row.folder not in left_out)
    words += [f'{open_ended} of them not finished'] if open_ended else []
    charge = 'charged with the training of its teachers' if asked.charged else 'teachers not charged'
    apart = not kinds & {'search', 'sequence'} and any(row.distilled for row in counted)
    better = 'higher' if asked.higher_is_better else 'lower'
    name = '' if asked.label == asked.metric else f' ({asked.metric})'
    cost = f'{asked.cost_label}; {charge}' if apart else asked.cost_label
    found = [('Runs', '; '.join(words)), ('Quality', f'{asked.label}, {better} is better{name}'), ('Cost', cost)]
    if asked.baseline is not None:
        found.append(('Compared with', asked.baseline))
    if made_on:
        found.append(('Made on', '; '.join(made_on)))
    return found


def warnings(rows: Sequence[Row], asked: Asked, made_on: Mapping[str, int]) -> list[str]:
    """What may make an answer wrong, in sentences.

    Args:
        rows: All runs.
        asked: What was asked for.
        made_on: Number of runs by machine.
    """
    found = []
    if len(made_on) > 1 and asked.cost in _OF_A_MACHINE:
        told = '; '.join(f'{machine} ({of_many(count, "run")})' for machine, count in made_on.items())
        found.append(
            f'The runs were made on different machines, so their {_OF_A_MACHINE[asked.cost]} do not compare: {told}.',
        )
    seeds = {row.replicate for row in rows if not row.is_earlier and row.finished}
    if 0 < len(seeds) < _FEW_SEEDS:
        found.append(
            f'{of_many(len(seeds), "seed")} cannot tell a gain from noise: make at least {_FEW_SEEDS}, better 5.',
        )
    return found

