"""Whether a teacher is worth trying, in plain sentences."""

from __future__ import annotations

import math

from composer_kd.inspecting.result import Beside, Calibration, Timing, Verdict

_SURE, _AGREE = 2.0, 0.98
_GAP, _OFF = 0.02, 1.15
_SHARP, _FLAT = 0.02, 0.95


def judge(
    rows: int, accuracy: float | None, commonest: float | None, calibration: Calibration | None,
    beside: Beside | None, no_student: str, timing: Timing | None, named: str,
) -> Verdict:
    """Judge a teacher by its figures.

    Args:
        rows: Labels that count.
        accuracy: The share of them that it has right; ``None`` where labels are no classes.
        commonest: The share of the commonest label.
        calibration: Likewise.
        beside: The teacher beside a student; ``None`` without one.
        no_student: Then, why.
        timing: What a step takes; ``None`` where that was not measured.
        named: How ``composer-kd tune`` is given this teacher.

    Example:
        >>> judge(360, 0.10, 0.11, None, None, 'none was given', None, '').good
        False
    """
    sentences: list[str] = []
    good = True
    if accuracy is None or commonest is None:
        sentences.append('Its labels are no classes, so that only the metrics above can be compared.')
    elif accuracy <= commonest + _SURE * math.sqrt(commonest * (1 - commonest) / rows):
        good = False
        sentences.append(
            f'It is no better than chance: right on {_share(accuracy)} of {rows:,} labels, where always naming the '
            f'commonest gets {_share(commonest)}. Were its weights loaded, are its classes in this order, and its '
            'inputs normalised like these?',
        )
    else:
        sentences.append(
            f'It is right on {_share(accuracy)} of {rows:,} labels; always naming the commonest gets '
            f'{_share(commonest)}.',
        )
    compared, told = _beside(rows, accuracy, beside, no_student)
    sentences.append(told)
    good = good and compared
    if calibration is not None and accuracy is not None and good:
        sentences += _confidence(rows, accuracy, calibration)
    if timing is not None:
        sentences.append(
            f'A step with it takes {_share(timing.overhead)} more, unprepared and asked on every batch; '
            f'composer-kd tune RECIPE {named} measures what is cheaper.',
        )
    return Verdict(good, sentences)


def _beside(rows: int, accuracy: float | None, beside: Beside | None, why: str) -> tuple[bool, str]:
    if beside is None:
        return True, f'It was not compared with a student: {why}.'
    if None in (accuracy, beside.accuracy, beside.only_teacher, beside.only_student, beside.agreement):
        return True, f'Its metrics stand beside those of {beside.run} above.'
    assert accuracy is not None
    assert beside.accuracy is not None
    assert beside.only_teacher is not None
    assert beside.only_student is not None
    assert beside.agreement is not None
    gain, split = beside.only_teacher - beside.only_student, beside.only_teacher + beside.only_student
    # of pairs, as McNemar's test: rows that both have right or wrong say nothing
    error = math.sqrt(max(0.0, split - gain**2) / rows)
    pairs = (
        f'right where that is wrong on {_share(beside.only_teacher)} of the labels, the reverse on '
        f'{_share(beside.only_student)}'
    )
    if split and gain < -_SURE * error:
        return False, (
            f'It is worse than the student in {beside.run}, which is right on {_share(beside.accuracy)}: {pairs}. That '
            'run is the better teacher.'
        )
    if split and gain > _SURE * error:
        return True, f'It is better than the student in {beside.run}, right on {_share(beside.accuracy)}: {pairs}.'
    told = f'It cannot be told apart from the student in {beside.run}, right on {_share(beside.accuracy)}: {pairs}.'
    if beside.agreement >= _AGREE:
        told += f' They agree on {_share(beside.agreement)}, so it has little to tell that model.'
    return True, told


def _confidence(rows: int, accuracy: float, found: Calibration) -> list[str]:
    heat, best = found.kd_temperature, found.temperature
    told = []
    # of so few labels, a calibrated model has an error, too: bins are small
    margin = max(_GAP, _SURE * math.sqrt(accuracy * (1 - accuracy) / rows))
    if found.confidence - accuracy > margin and best > _OFF:
        advice = f'raise the temperature to {_number(best)} or more' if heat < best / _OFF else (
            f"the recipe's temperature of {_number(heat)} makes up for that"
        )
        told.append(
            f'It is overconfident: sure of {_share(found.confidence)} and right on {_share(accuracy)}; its '
            f'probabilities fit at temperature {_number(best)}: {advice}.',
        )
    elif accuracy - found.confidence > margin and best < 1 / _OFF:
        told.append(
            f'It is underconfident: sure of {_share(found.confidence)} and right on {_share(accuracy)}; its '
            f'probabilities fit at temperature {_number(best)}, so a high temperature hides more of what it knows. '
            'Label smoothing, MixUp and early stopping do that.',
        )
    else:
        told.append(
            f'Its confidence can be taken at its word: sure of {_share(found.confidence)} and right on '
            f'{_share(accuracy)}.',
        )
    if found.entropy_share > _FLAT:
        told.append(
            f'At temperature {_number(heat)} its answers are nearly even over the classes '
            f'({_share(found.entropy_share)} of the largest entropy) and say little; lower the temperature.',
        )
    elif found.entropy_share < _SHARP:
        told.append(
            f'At temperature {_number(heat)} its answers are nearly those of a hard label '
            f'({_share(found.entropy_share)} of the largest entropy); a higher temperature tells more.',
        )
    return told


def _number(value: float) -> str:
    return f'{value:.3g}'


def _share(value: float) -> str:
    return f'{100 * value:.1f} %'
