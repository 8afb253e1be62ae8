"""Which way to distil is recommended, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from composer_kd.caching.estimate import break_even
from composer_kd.tuning.predict import Prediction

NOT_MEASURED = (
    'Quality is not measured here: the order of the choices follows what is published of other models and data. Runs '
    "say whether it holds for yours ('composer-kd study')."
)


@dataclass(frozen=True)
class Recommendation:
    """What is recommended.

    Attributes:
        prediction: Of the way that is.
        met: Whether it keeps within the budget.
        why: In sentences.
    """

    prediction: Prediction
    met: bool
    why: tuple[str, ...]


def pays(prediction: Prediction) -> bool:
    """Whether it needs no store, or one that has paid after the runs that are made."""
    if not prediction.choice.stored:
        return True
    return prediction.pays_after is not None and prediction.runs >= prediction.pays_after


def recommend(predictions: Sequence[Prediction], budget: float) -> Recommendation:
    """The first way that keeps within a budget, of those that distil at all and whose store pays; else the cheapest.

    Args:
        predictions: In the order in which the ways are to be preferred.
        budget: The overhead that one is willing to pay, a share of the time without distillation, 0 or more.

    Raises:
        ValueError: If no way distils on any batch.
    """
    possible = [one for one in predictions if one.active and pays(one)]
    if not possible:
        raise ValueError(
            'tune: the training is too short: none of the choices distils on any batch of it. Look at start, end and '
            'max_duration.',
        )
    fits = [one for one in possible if one.overhead_of_all <= budget]
    found = fits[0] if fits else min(possible, key=lambda one: one.overhead_of_all)
    share = f'{100 * budget:g} %'
    told = f'{found.choice.name}: {_percent(found)} predicted'
    if found.writing:
        told += f' over {found.runs} {"run" if found.runs == 1 else "runs"}, writing the store included'
    if fits:
        before = possible[:possible.index(found)]
        why = [f'{told}, within the budget of {share}.']
        if before:
            why.append('What would disturb the training less costs more: ' + '; '.join(
                f'{one.choice.name} {_percent(one)}' for one in before[-3:]
            ) + '.')
    else:
        why = [
            f'The budget of {share} cannot be met: the cheapest of these choices is {told}. A smaller teacher, a '
            'shorter window or fewer batches than these would cost less; so would a larger student step.',
        ]
    why += _with_more_runs(predictions[:predictions.index(found)] if fits else predictions, budget)
    why += [f'Published: {evidence}.' for evidence in found.choice.evidence]
    return Recommendation(found, bool(fits), (*why, NOT_MEASURED))


def runs_within(prediction: Prediction, budget: float) -> int | None:
    """How many runs must share its store for it to pay and to keep within a budget; ``None`` if no number will do."""
    if prediction.pays_after is None:
        return None
    shared = break_even(prediction.writing, budget * prediction.base - prediction.kd)
    return None if shared is None else max(1, shared, prediction.pays_after)


def _with_more_runs(predictions: Sequence[Prediction], budget: float) -> list[str]:
    """Which store would keep within the budget if more runs shared it, the first."""
    for one in predictions:
        runs = runs_within(one, budget) if one.choice.stored and one.active else None
        if runs is not None and runs > one.runs:
            return [
                f'If {runs} runs shared its store (--runs {runs}), {one.choice.name} would keep within the budget, at '
                f'{100 * (one.kd + one.writing / runs) / one.base:.1f} %.',
            ]
    return []


def _percent(prediction: Prediction) -> str:
    return f'{100 * prediction.overhead_of_all:.1f} %'
