"""The losses of one training, each with its weight, its temperature and its own part of the window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from composer.core import Time

from composer_kd.features import FEATURE_LOSSES, FeatureLoss, make_feature_loss
from composer_kd.layers import Projector, Tap, read_projector
from composer_kd.losses import LOSSES, Loss, make_loss
from composer_kd.names import described, nearest
from composer_kd.times import parse_time
from composer_kd.values import Value

LAYERS = ('student_layer', 'teacher_layer', 'projector')
OWN = ('name', 'label', 'weight', 'start', 'end', *LAYERS)
"""What an entry of ``losses`` says beside its loss's own settings."""


@dataclass(frozen=True)
class Layers:
    """The layers that a loss compares.

    Attributes:
        student: Of the student.
        teacher: Of each teacher, one for each of the student's.
        projector: What stands between.
    """

    student: tuple[Tap, ...]
    teacher: tuple[Tap, ...]
    projector: Projector

    @property
    def plain(self) -> dict[str, Any]:
        """In plain types."""
        pairs = (('student_layer', self.student), ('teacher_layer', self.teacher))
        return {
            **{key: str(taps[0]) if len(taps) == 1 else [str(tap) for tap in taps] for key, taps in pairs},
            'projector': self.projector.plain,
        }


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
        layers: What it compares, where that is not the logits.
    """

    label: str
    loss: Loss | FeatureLoss
    weight: Value
    temperature: Value | None = None
    start: Time[float] | None = None
    end: Time[float] | None = None
    layers: Layers | None = None

    @property
    def of_logits(self) -> Loss | None:
        """The loss, where it compares logits."""
        return self.loss if isinstance(self.loss, Loss) else None

    @property
    def has_temperature(self) -> bool:
        """Whether it is one of logits that has a temperature."""
        return isinstance(self.loss, Loss) and self.loss.has_temperature

    @property
    def fixed_temperature(self) -> float | None:
        """The loss's temperature, where it has one and that does not vary."""
        heat = self.loss.settings.get('temperature') if self.has_temperature else None
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
        layers = {} if self.layers is None else self.layers.plain
        return {'label': self.label, 'weight': self.weight.describe(), **window, **layers, **self.plain_loss}

    @property
    def canonical(self) -> str:
        """All of it as text, one text for one meaning."""
        settings: dict[str, Any] = {
            key: float(value) if isinstance(value, int) else value for key, value in self.loss.settings.items()
        }
        if self.temperature is not None:
            settings['temperature'] = self.temperature.source
        text = f"{'kl_divergence' if self.loss.name == 'forward_kl' else self.loss.name} {described(settings)}"
        text += '' if self.layers is None else f' on {described(self.layers.plain)}'
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
    layers = None
    if where != 'loss' and isinstance(name, str):
        loss, layers = _named(name, given, own, where)
    elif isinstance(name, str):
        loss = make_loss(given, where)
    elif 'name' in given and len(given) == 1:
        loss = make_loss(given['name'], where)
    elif 'name' in given and not isinstance(name, str) and callable(name):
        raise ValueError(
            f'{where}: a function has no settings, got {", ".join(repr(key) for key in given if key != "name")}. Bind '
            'them with functools.partial, or register the function.',
        )
    else:
        loss = make_loss(given, where)  # which says what is missing
    heat = loss.settings.get('temperature') if layers is None else None
    scheduled = heat is not None and not isinstance(heat, (int, float))
    times = {}
    for key in ('start', 'end'):
        times[key] = None if own.get(key) is None else parse_time(own[key], f'{where}.{key}')
    first, last = times['start'], times['end']
    if first is not None and last is not None and first.unit == last.unit and first >= last:
        raise ValueError(f"{where}: start '{own['start']}' does not lie before end '{own['end']}'.")
    label = own.get('label', loss.name)
    if not isinstance(label, str) or not label:
        raise TypeError(f'{where}.label: expected a name, got {label!r}.')
    return Entry(
        label, loss, Value(own.get('weight', 1.0), f'{where}.weight', at_least=0),
        Value(heat, f'{where}.temperature', above=0) if scheduled else None, first, last, layers,
    )


def _named(
    name: str, given: Mapping[str, Any], own: Mapping[str, Any], where: str,
) -> tuple[Loss | FeatureLoss, Layers | None]:
    """A loss of the list by its name: of logits, or of layers."""
    logits, features = LOSSES.names(), FEATURE_LOSSES.names()
    if name in logits and name in features:
        raise ValueError(f"{where}: there is a loss of logits and one of layers named '{name}'. Rename your own.")
    if name not in features:
        if name not in logits:
            known = sorted([*logits, *features])
            raise ValueError(f"{where}: unknown loss '{name}'.{nearest(name, known)} Known: {', '.join(known)}.")
        _offer_own(given, where, make_loss(name, where).settings)
        loss = make_loss(given, where)
        said = [key for key in LAYERS if own.get(key) is not None]
        if said:
            raise ValueError(
                f"{where}.{said[0]}: '{name}' compares logits, and has no layers. Leave it out, or choose one of "
                f"{', '.join(features)}.",
            )
        return loss, None
    settings: dict[str, Any] = {}
    with suppress(ValueError):  # of a loss with settings that must be given, none are known here
        settings = make_feature_loss(name, where).settings
    _offer_own(given, where, settings)
    feature = make_feature_loss(given, where)
    return feature, _layers(feature, own, where)


def _layers(loss: FeatureLoss, own: Mapping[str, Any], where: str) -> Layers:
    student = own.get('student_layer')
    if student is None:
        raise ValueError(
            f"{where}: '{loss.name}' compares layers, and student_layer is missing. Name one as in named_modules(), "
            'and the teacher\'s as teacher_layer where it is called otherwise.',
        )
    teacher = student if own.get('teacher_layer') is None else own['teacher_layer']
    sides = []
    for key, said in (('student_layer', student), ('teacher_layer', teacher)):
        several = list(said) if isinstance(said, (list, tuple)) else [said]
        sides.append(tuple(Tap.read(one, f'{where}.{key}', loss.takes == 'attention') for one in several))
    if len(sides[0]) != len(sides[1]) or not sides[0]:
        raise ValueError(
            f"{where}: {len(sides[0])} layers of the student and {len(sides[1])} of the teacher. Give one of the "
            "teacher's for each of the student's, one or more.",
        )
    projector = read_projector(own.get('projector'), loss.projector, f'{where}.projector')
    if loss.takes == 'attention' and projector.kind != 'none':
        raise ValueError(f"{where}.projector: attention has no width to bring to another. Leave it out.")
    return Layers(sides[0], sides[1], projector)


def _offer_own(given: Mapping[str, Any], where: str, settings: Mapping[str, Any]) -> None:
    """Of an unknown key that is near to one of an entry's own, say so: the loss would offer its settings alone."""
    for key in given:
        near = nearest(key, [*OWN, *settings])
        if key not in settings and key != 'name' and any(f"'{one}'" in near for one in OWN):
            valid = ', '.join(sorted({*OWN, *settings}))
            raise ValueError(f"{where}: unknown key '{key}'.{near} Valid keys: {valid}.")


def common_temperature(entries: Sequence[Entry]) -> float | None:
    """The one temperature of all losses that have any, where it is one and does not vary."""
    heats = {entry.fixed_temperature for entry in entries if entry.has_temperature}
    return heats.pop() if len(heats) == 1 else None
