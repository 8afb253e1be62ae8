"""The losses of one training, each with its weight, its temperature and its own part of the window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from composer.core import Time

from composer_kd.losses import LOSSES, Loss, make_loss
from composer_kd.names import described, nearest
from composer_kd.times import parse_time
from composer_kd.values import Value

OWN = ('name', 'label', 'weight', 'start', 'end')
"""What an entry of ``losses`` says beside its loss's own settings."""


@dataclass(frozen=True)
class Entry:
    """One loss of a training.

    Attributes:
        label: What it is called in metrics and messages; no two are called the same.
        loss: The loss.
        weight: By which it is multiplied in the sum.
        temperature: Of the loss, where it follows a scheduler.
        start: When it begins within the window of the whole; ``None``: with that.
        end: When it ends; ``None``: with the window.
    """

    label: str
    loss: Loss
    weight: Value
    temperature: Value | None = None
    start: Time[float] | None = None
    end: Time[float] | None = None

    @property
    def fixed_temperature(self) -> float | None:
        """The loss's temperature, where it has one and that does not vary."""
        heat = self.loss.settings.get('temperature')
        return float(heat) if isinstance(heat, (int, float)) and self.temperature is None else None

    @property
    def plain_loss(self) -> dict[str, Any]:
        """The loss and its settings in plain types."""
        heat = {} if self.temperature is None else {'temperature': self.temperature.describe()}
        return {'name': self.loss.name, **self.loss.settings, **heat}

    @property
    def plain(self) -> dict[str, Any]:
        """All of it in plain types, as it is logged."""
        window = {key: _text(time) for key, time in (('start', self.start), ('end', self.end))}
        return {'label': self.label, 'weight': self.weight.describe(), **window, **self.plain_loss}

    @property
    def canonical(self) -> str:
        """All of it as text, one text for one meaning."""
        settings: dict[str, Any] = {
            key: float(value) if isinstance(value, int) else value for key, value in self.loss.settings.items()
        }
        if self.temperature is not None:
            settings['temperature'] = self.temperature.source
        text = f"{'kl_divergence' if self.loss.name == 'forward_kl' else self.loss.name} {described(settings)}"
        if self.weight.constant != 1:
            text = f'{self.weight.source} * {text}'
        for key, time in (('from', self.start), ('to', self.end)):
            text += '' if time is None else f' {key} {_text(time)}'
        return text


def _text(time: Time[float] | None) -> str | None:
    return None if time is None else str(time).replace('.0dur', 'dur')


def read_entries(loss: Any, losses: Any) -> list[Entry]:
    """The losses that the settings ``loss`` or ``losses`` ask for; the default is ``kl_divergence`` alone.

    Raises:
        TypeError: For a value of the wrong kind.
        ValueError: For both settings at once, an empty list, an unknown name or setting, a value out of range, or two
            entries of one label.

    Example:
        >>> for entry in read_entries(None, ['mse', {'name': 'kl_divergence', 'weight': 2, 'end': '0.5dur'}]):
        ...     print(entry.label, '=', entry.canonical)
        mse = mse {class_reduction: sum}
        kl_divergence = 2.0 * kl_divergence {temperature: 1.0} to 0.5dur
    """
    if losses is None:
        return [_entry({'name': 'kl_divergence' if loss is None else loss}, 'loss')]
    if loss is not None:
        raise ValueError('loss and losses are both given. Give one: losses is a list of several, each with its weight.')
    if isinstance(losses, (str, Mapping)) or not isinstance(losses, Sequence):
        raise TypeError(
            f'losses: expected a list, as in [{{name: kl_divergence, weight: 1}}], got {type(losses).__name__}: '
            f'{losses!r}. A single loss may be given as loss.',
        )
    if not losses:
        raise ValueError('losses: expected one loss or more, got an empty list. Leave it out for kl_divergence.')
    entries = [
        _entry(item if isinstance(item, Mapping) else {'name': item}, f'losses[{i}]') for i, item in enumerate(losses)
    ]
    twice = next((label for label, count in Counter(entry.label for entry in entries).items() if count > 1), None)
    if twice is not None:
        raise ValueError(
            f"losses: two entries are called '{twice}', and their metrics could not be told apart. Give one of them a "
            'label of its own: {name: ..., label: ...}.',
        )
    return entries


def _entry(said: Mapping[str, Any], where: str) -> Entry:
    own = {key: said[key] for key in OWN if key in said and key != 'name'} if where != 'loss' else {}
    given = {key: value for key, value in said.items() if key not in own}
    name = given.get('name')
    if isinstance(name, str):
        _offer_own(given, where)
        loss = make_loss(given, where)
    elif 'name' in given and len(given) == 1:
        loss = make_loss(name, where)
    elif 'name' in given and not isinstance(name, str) and callable(name):
        raise ValueError(
            f'{where}: a function has no settings, got {", ".join(repr(key) for key in given if key != "name")}. Bind '
            'them with functools.partial, or register the function.',
        )
    else:
        loss = make_loss(given, where)
    heat = loss.settings.get('temperature')
    scheduled = heat is not None and not isinstance(heat, (int, float))
    times = {}
    for key in ('start', 'end'):
        times[key] = None if own.get(key) is None else parse_time(own[key], f'{where}.{key}')
    first, last = times['start'], times['end']
    if first is not None and last is not None and first.unit == last.unit and first >= last:
        raise ValueError(f"{where}: start '{own['start']}' does not lie before end '{own['end']}'. Give an earlier one.")
    label = own.get('label', loss.name)
    if not isinstance(label, str) or not label:
        raise TypeError(f'{where}.label: expected a name, got {label!r}.')
    return Entry(
        label, loss, Value(own.get('weight', 1.0), f'{where}.weight', at_least=0),
        Value(heat, f'{where}.temperature', above=0) if scheduled else None, first, last,
    )


def _offer_own(given: Mapping[str, Any], where: str) -> None:
    """Of an unknown key that is near to one of an entry's own, say so: the loss would offer its settings alone."""
    if where == 'loss' or given['name'] not in LOSSES.names():
        return
    settings = make_loss(given['name'], where).settings
    for key in given:
        near = nearest(key, [*OWN, *settings])
        if key not in settings and key != 'name' and any(f"'{one}'" in near for one in OWN):
            valid = ', '.join(sorted({*OWN, *settings}))
            raise ValueError(f"{where}: unknown key '{key}'.{near} Valid keys: {valid}.")


def common_temperature(entries: Sequence[Entry]) -> float | None:
    """The one temperature of all losses that have any, where it is one and does not vary."""
    heats = {entry.fixed_temperature for entry in entries if entry.loss.has_temperature}
    return heats.pop() if len(heats) == 1 else None
