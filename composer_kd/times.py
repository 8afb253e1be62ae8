"""Composer's time strings, read and refused."""

from __future__ import annotations

from typing import Any

from composer.core import Time, TimeUnit


def read_time(value: Any, bare: TimeUnit) -> Time[Any] | None:
    """Whatever Composer reads as a time, if its number is one: no NaN, no infinity, and below 2**63.

    Args:
        value: A time string, a ``Time`` or a number.
        bare: The unit of a bare number.

    Example:
        >>> read_time('3ep', TimeUnit.BATCH), read_time('3 epochs', TimeUnit.BATCH), read_time('infep', TimeUnit.BATCH)
        (Time(3, TimeUnit.EPOCH), None, None)
    """
    try:
        time = None if isinstance(value, bool) or value == '' else Time.from_input(value, bare)
    except (ValueError, TypeError, RuntimeError, OverflowError):  # the last for 'infep'
        return None
    return time if time is not None and abs(time.value) < 2**63 else None


def parse_time(value: str | int | Time[int] | Time[float], where: str, bare: TimeUnit = TimeUnit.BATCH) -> Time[float]:
    """A Composer time string as a :class:`composer.core.Time`.

    Args:
        value: ``'3ep'``, ``'100ba'``, ``'1e6sp'``, ``'1e9tok'``, ``'0.5dur'``, ``'2iter'``, a ``Time`` or a number.
        where: What it is for, for messages.
        bare: The unit of a bare number.

    Raises:
        ValueError: For a string that is no time, a negative time, a fraction of the duration above one, and wall-clock
            time, which no two ranks and no two runs agree on.
    """
    time = read_time(value, bare)
    if time is None:
        raise ValueError(
            f"{where}: expected a Composer time string such as '0.25dur', '3ep', '100ba', '5000sp' or '1e6tok' with a "
            f'whole number (a fraction for dur), got {value!r}.',
        )
    if time.unit == TimeUnit.SECOND:
        raise ValueError(
            f'{where}: got the wall-clock time {value!r}; no two ranks and no two runs agree on it, so it cannot be '
            'repeated or resumed. Use ep, ba, sp, tok, iter or dur.',
        )
    if time.value < 0 or (time.unit == TimeUnit.DURATION and time.value > 1):
        limits = 'between 0dur and 1dur' if time.unit == TimeUnit.DURATION else '0 or more'
        raise ValueError(f'{where}: expected a time {limits}, got {value!r}.')
    return time
