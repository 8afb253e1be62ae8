"""What was measured and what is recommended, as tables and as JSON."""

from __future__ import annotations

import io
import sys
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from composer_kd.caching.command import size
from composer_kd.caching.show import duration
from composer_kd.plan.cost import LEFT_OUT
from composer_kd.tuning.advice import Advice
from composer_kd.tuning.paste import in_yaml, store_of, to_paste
from composer_kd.tuning.predict import Prediction
from composer_kd.tuning.spread import Spread

_WIDTH = 160


def show(advice: Advice) -> None:
    """Print the tables, the recommendation and the YAML; what is no terminal gets lines of 160 characters."""
    if sys.stdout.isatty():
        _show(advice, Console(highlight=False))
        return
    plain = Console(file=io.StringIO(), highlight=False, width=_WIDTH)
    with plain.capture() as capture:
        _show(advice, plain)
    print('\n'.join(line.rstrip() for line in capture.get().splitlines()))


def _show(advice: Advice, console: Console) -> None:
    subject, found, chosen = advice.subject, advice.measured, advice.recommendation.prediction
    share = f', a share of {subject.ranks} GPUs' if subject.ranks > 1 else ''
    console.print(f'[bold]measured[/], a batch of {found.samples:,}{share}')
    console.print(_parts(advice))
    for way, why in found.refused.items():
        console.print(f'  teachers prepared {way}: {escape(why)}', soft_wrap=True)
    if found.no_store:
        console.print(f'  stored answers: not measured: {escape(found.no_store)}', soft_wrap=True)
    for note in notes(advice):
        console.print(f'  {escape(note)}', soft_wrap=True)
    known = '' if advice.length.known else ' (its length is not known: shares are of so many steps)'
    console.print(f'\n[bold]choices[/], predicted for {advice.length.steps:,} steps{known}')
    console.print(_choices(advice))
    console.print(f'\n[bold]recommended[/]: {escape(chosen.choice.name)}')
    for line in advice.recommendation.why:
        console.print(f'  {escape(line)}', soft_wrap=True)
    console.print('\n[bold]to paste into the recipe[/]')
    console.print(escape(in_yaml(to_paste(subject, chosen.choice))), soft_wrap=True, end='')
    for line in writing(advice):
        console.print(f'# {escape(line)}', soft_wrap=True)


def notes(advice: Advice) -> list[str]:
    """What these figures do not see."""
    found, recipe = advice.measured, advice.subject.recipe
    told = [f'steps at the beginning of the training: {LEFT_OUT[name].split(":")[0]} changes them later'
            for name in recipe.algorithms if name in LEFT_OUT]
    if 'sam' in recipe.algorithms and int(recipe.algorithms['sam'].get('interval', 1)) > 1:
        told.append('sam: only some of the steps have its second pass, and the median tells of one kind alone')
    waiting = 0.0 if found.loader is None or not found.workers else found.loader.seconds - found.step.seconds
    if waiting > 0:
        told.append(
            f'the data comes slower than the steps: every step waits {duration(waiting)} for it, in which distillation '
            'costs nothing',
        )
    return told


def writing(advice: Advice) -> list[str]:
    """How the stores of what is recommended are written beforehand."""
    chosen, subject = advice.recommendation.prediction, advice.subject
    if not chosen.writing:
        return []
    lines = [
        f'composer-kd cache RECIPE.yaml --teacher {name} --out {store_of(subject, name)}'
        for name in subject.names if name not in subject.stored and chosen.asked[name]
        and not any('cache' in item for item in subject.said['teachers'])
    ]
    return ['the first run stores what it asks; or beforehand, with this in the recipe:', *lines]


def _spread(spread: Spread, step: float) -> tuple[str, ...]:
    return (
        _time(spread.seconds), escape(f'[{_time(spread.low)}, {_time(spread.high)}]'),
        f'{spread.count:,}', f'{100 * spread.seconds / step:.1f} %',
    )


def _time(seconds: float) -> str:
    return f"{'-' if seconds < 0 else ''}{duration(abs(seconds))}"


def _parts(advice: Advice) -> Table:
    found = advice.measured
    table = Table(box=None, padding=(0, 2, 0, 1))
    table.add_column('')
    for name in ('median', 'quartiles', 'of so many', 'share of a step'):
        table.add_column(name, justify='right')
    step = found.step.seconds

    def row(name: str, spread: Spread | None) -> None:
        if spread is not None:
            table.add_row(f' {escape(name)}', *_spread(spread, step))
    row('step without distillation', found.step)
    row(f'data alone ({found.workers} workers)', found.loader)
    for name, ways in found.teachers.items():
        alike = [other for other, first in advice.subject.alike.items() if first == name and other != name]
        same = f" (and {', '.join(alike)}, the same architecture)" if alike else ''
        for way, spread in ways.items():
            row(f"{name}{same}, {way}{' *' if len(ways) > 1 and way == found.prepare else ''}", spread)
    row('loss, forward and backward, and all around', found.loss)
    row('what a step with distillation takes more, seen as a whole', found.added)
    if found.stored is not None:
        row('stored answers of a teacher, read', found.stored.reading)
        row('loss on stored answers, and all around', found.stored.loss)
    return table


def _choices(advice: Advice) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 1))
    table.add_column('')
    names = ['steps with KD', 'overhead', 'a training']
    stores = any(one.writing for one in advice.predictions)
    runs = advice.predictions[0].runs
    names += ['writing the store', 'its size', 'pays after', f'overhead, {runs} run{"" if runs == 1 else "s"}'] * stores
    for name in names:
        table.add_column(name, justify='right')
    for one in advice.predictions:
        mark = '>' if one is advice.recommendation.prediction else ' '
        row = [f'{mark}{one.choice.name}', f'{one.active:,}', f'{100 * one.overhead:.1f} %',
               duration(3600 * one.hours) if advice.length.known else 'unknown']
        if stores:
            row += [*_store(one), f'{100 * one.overhead_of_all:.1f} %']
        table.add_row(*map(escape, row))
    return table


def _store(one: Prediction) -> tuple[str, str, str]:
    if not one.choice.stored:
        return '', '', ''
    if not one.writing:
        return 'written', '', ''
    pays = 'never' if one.pays_after is None else f'{one.pays_after} run{"" if one.pays_after == 1 else "s"}'
    return duration(one.writing), size(one.bytes), pays


def as_json(advice: Advice) -> dict[str, Any]:
    """All of it, in plain types."""
    found, chosen = advice.measured, advice.recommendation
    measured = asdict(found)
    if found.stored is not None and found.stored.form is not None:
        measured['stored']['form'] = found.stored.form.plain()
    return {
        'run_name': advice.subject.recipe.run_name,
        'gpus': advice.subject.ranks,
        'batch_size': advice.length.course.batch_size,
        'steps': advice.length.steps,
        'length_known': advice.length.known,
        'budget': advice.budget,
        'measured': measured,
        'notes': notes(advice),
        'choices': [
            {
                'name': one.choice.name, 'changes': dict(one.choice.changes), 'stored': one.choice.stored,
                'active_steps': one.active, 'asked': dict(one.asked), 'overhead': one.overhead,
                'overhead_of_all_runs': one.overhead_of_all, 'hours': one.hours if advice.length.known else None,
                'writing_seconds': one.writing, 'store_bytes': one.bytes, 'pays_after_runs': one.pays_after,
                'runs': one.runs, 'evidence': list(one.choice.evidence),
            }
            for one in advice.predictions
        ],
        'recommended': {
            'name': chosen.prediction.choice.name, 'within_budget': chosen.met, 'why': list(chosen.why),
            'overhead': chosen.prediction.overhead, 'overhead_of_all_runs': chosen.prediction.overhead_of_all,
        },
        'recipe': to_paste(advice.subject, chosen.prediction.choice),
    }
