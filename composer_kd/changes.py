"""What a training that is resumed distils otherwise than the checkpoint it goes on from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from composer.utils import dist

log = logging.getLogger(__name__)

WITHOUT_EFFECT = frozenset({
    'teachers', 'check_batches', 'placement', 'teacher_microbatch_size', 'prepare', 'on_nonfinite', 'on_change',
})
"""Settings that change nothing about what is learnt; teachers are compared by their digests, which say at which
resolution they see images. The rest of ``prepare`` changes how answers are rounded, as other hardware does.
"""

_SHOWN = 12


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, one sentence's part each.

    Args:
        then: Of the checkpoint: ``settings`` (names to values as text) and ``teachers`` (name, origin, digest and
            weight of each). What it does not say is not compared.
        now: The same, of this training.

    Example:
        >>> then = {'settings': {'end': '0.5dur'}, 'teachers': [('a', 'run:a', '1234', 1.0)]}
        >>> now = {'settings': {'end': '1dur'}, 'teachers': [('a', 'run:a', '1235', 1.0)]}
        >>> for difference in differences(then, now):
        ...     print(difference)
        end was 0.5dur and is 1dur
        teacher 'a' (run:a) had the digest 1234 and has 1235
    """
    settings, said = now['settings'], then.get('settings', {})
    found = [
        f'{key} was {said[key]} and is {value}' for key, value in settings.items()
        if key not in WITHOUT_EFFECT and key in said and said[key] != value
    ]
    before: Sequence[Any] = then.get('teachers', ())
    if len(before) != len(now['teachers']):
        names = (', '.join(teacher[0] for teacher in teachers) for teachers in (before, now['teachers']))
        return [*found, 'there were {} teachers ({}) and are {} ({})'.format(
            *(part for pair in zip((len(before), len(now['teachers'])), names, strict=True) for part in pair),
        )]
    for old, new in zip(before, now['teachers'], strict=True):
        name, origin, digest, weight = new
        if old[2] != digest:
            moved = '' if old[1] == origin else f', then {old[1]},'
            found.append(
                f"teacher '{name}' ({origin}){moved} had the digest {old[2][:_SHOWN]} and has {digest[:_SHOWN]}",
            )
        if old[3] != weight:
            found.append(f"teacher '{name}' had the weight {old[3]:g} and has {weight:g}")
    return found


def check_unchanged(then: Mapping[str, Any], now: Mapping[str, Any], on_change: str) -> None:
    """Refuse a checkpoint of other distillation, or say what is other; every rank calls this.

    Args:
        then: As of :func:`differences`, and so is ``now``.
        now: Of this training.
        on_change: ``'error'`` or ``'warn'``.

    Raises:
        ValueError: With ``'error'``, naming the differences.
    """
    told = ['; '.join(differences(then, now))]
    dist.broadcast_object_list(told)  # a rank that refused alone would leave the others waiting
    if told[0] and on_change == 'error':
        raise ValueError(
            f'The checkpoint was made with other distillation: {told[0]}. Set what it had, or go on with what is set '
            "now by on_change='warn'.",
        )
    if told[0]:
        log.warning('The checkpoint was made with other distillation: %s. From here on it is as set now.', told[0])
