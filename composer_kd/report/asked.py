"""What a report is asked for: the settings of a study, and what the caller said instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from composer_kd.names import nearest
from composer_kd.report.collect import check_metric, is_higher_better, metric_names
from composer_kd.report.costs import check_cost, cost_name
from composer_kd.report.plots import Style, styles
from composer_kd.report.rows import Row
from composer_kd.runs.study import StudyNote

TeachersCharged = Literal['sunk', 'charged']


@dataclass(frozen=True)
class Asked:
    """What is reported: the settings of the study, and what the caller said instead.

    Attributes:
        metric: The quality, ``evaluator/metric``.
        label: The quality in words.
        higher_is_better: Whether a high value of it is a good one.
        cost: A name in ``report.costs.COSTS``.
        cost_label: The cost in words, with its unit.
        price: Of a GPU-hour, for money.
        charged: Whether a run's cost holds the training of its teachers.
        baseline: The method that the others are compared with; ``None`` if there is none.
        reference: The method whose overhead the others' is compared with; ``None`` for none.
        steady: Whether training time is at each method's median time of a batch.
        looks: Style by method, in the order of the study.
    """

    metric: str
    label: str
    higher_is_better: bool
    cost: str
    cost_label: str
    price: float | None
    charged: bool
    baseline: str | None
    reference: str | None
    steady: bool
    looks: dict[str, Style]

    @property
    def in_words(self) -> str:
        """The quality amid a sentence."""
        name = self.label
        return name if '/' in name or name[1:2].isupper() else name[:1].lower() + name[1:]


def ask(
    rows: Sequence[Row],
    note: StudyNote | None = None,
    *,
    metric: str | None = None,
    cost: str | None = None,
    price: float | None = None,
    teachers: TeachersCharged = 'sunk',
    baseline: str | None = None,
    reference: str | None = None,
    steady: bool | None = None,
    higher_is_better: bool | None = None,
) -> Asked:
    """What to report of those runs; see :func:`~composer_kd.report.study_report.gather` for the arguments.

    Raises:
        ValueError: If a name is unknown, or nobody said which of several metrics.
    """
    if teachers not in ('sunk', 'charged'):
        raise ValueError(f"Teachers' training: expected 'sunk' or 'charged', got '{teachers}'.")
    known = metric_names(rows)
    if metric is None:
        metric = note.metric if note is not None else known[0] if len(known) == 1 else None
    if metric is None:
        raise ValueError(
            f"Expected a metric to report, got none, and these runs have {'several' if known else 'none'}: "
            f"{', '.join(known) or 'no run was evaluated at its end'}. Give one of them, as EVALUATOR/METRIC.",
        )
    check_metric(rows, metric)
    own = note if note is not None and note.metric == metric else None
    if higher_is_better is None and own is not None:
        higher_is_better = own.higher_is_better
    if cost is None:
        cost = 'money' if price is not None else note.cost if note is not None else 'train_seconds'
    check_cost(cost, price)
    if price is not None and cost != 'money':
        raise ValueError(
            f"A price makes money of GPU-hours, and the cost asked for is '{cost}': leave out the price, or ask for "
            "'money'.",
        )
    steady = _steady(rows, note, steady)
    met = [row.method for row in rows if not row.is_earlier]
    methods = [*(method for method in (note.methods if note is not None else []) if method in met), *met]
    for what, name in (('baseline', baseline), ('reference', reference)):
        if name is not None and name not in methods:
            raise ValueError(
                f"No run of {what} '{name}'.{nearest(name, methods)} Methods: {', '.join(dict.fromkeys(methods))}.",
            )
    if baseline is None:
        baseline = note.baseline if note is not None else _without_distillation(rows, methods)
    if reference is None and note is not None:
        reference = note.reference
    return Asked(
        metric=metric,
        label=own.label if own is not None and own.label else metric,
        higher_is_better=is_higher_better(metric, higher_is_better),
        cost=cost,
        cost_label=cost_name(cost, price, steady),
        price=price,
        charged=teachers == 'charged',
        baseline=baseline if baseline in methods else None,
        reference=reference if reference in methods else None,
        steady=steady,
        looks=styles(methods, baseline if baseline in methods else None),
    )


def _steady(rows: Sequence[Row], note: StudyNote | None, said: bool | None) -> bool:
    """Whether time is at a median price: as said, else as the study says; never in a search."""
    if not any(row.kind == 'search' and not row.is_earlier for row in rows):
        return (note is not None and note.steady_price) if said is None else said
    if said:
        raise ValueError(
            'A steady price (--steady) is for runs whose batches cost the same, and the runs of a search differ in '
            'what a batch costs: batch size and model may be among what it varies. Leave it out.',
        )
    return False


def _without_distillation(rows: Sequence[Row], methods: Sequence[str]) -> str | None:
    """The method to compare with where nobody said: that of the name, else the first that had no teacher."""
    taught = {row.method for row in rows if row.distilled}
    alone = [method for method in dict.fromkeys(methods) if method not in taught]
    return 'baseline' if 'baseline' in alone else alone[0] if alone else None
