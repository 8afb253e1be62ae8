"""What an inspection found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from composer_kd.inspecting.calibration import Reliability
from composer_kd.tuning.spread import Spread


@dataclass(frozen=True)
class Identity:
    """The teacher as a model.

    Attributes:
        origin: Where it comes from.
        kind: Class of the model, without Composer's wrapper.
        digest: Of its weights.
        parameters: How many.
        bytes: Of parameters and buffers.
        dtypes: Types of its parameters.
        prepared: What was done to it for inference, as it was asked for.
    """

    origin: str
    kind: str
    digest: str
    parameters: int
    bytes: int
    dtypes: Sequence[str]
    prepared: Sequence[str]


@dataclass(frozen=True)
class Layer:
    """A module whose output can be tapped.

    Attributes:
        name: Dotted, as in ``named_modules()`` of the teacher's module.
        kind: ``'map'`` ``(N, C, H, W)``, ``'hidden'`` ``(N, L, D)`` or ``(N, D)``, ``'attention'``
            ``(N, heads, L, L)``, or ``'other'``.
        shape: Of its output for one sample; the whole shape where the first dimension is not that of the samples.
        by_sample: Whether it is.
        module: Its class.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    by_sample: bool
    module: str


@dataclass(frozen=True)
class Calibration:
    """How far its confidence can be taken at its word, by the softmax over its classes.

    Attributes:
        confidence: Mean probability of the likeliest class, 0 to 1.
        error: Expected calibration error, 0 to 1.
        nll: Mean negative log-likelihood of the labels in nats.
        temperature: At which the labels are likeliest.
        nll_then: The same at that temperature, over the rows it was sought on.
        error_then: Likewise.
        sought_on: These rows: all, or as many as fit into memory, drawn at random.
        bins: Confidence and accuracy in bins, at temperature 1.
        bins_then: At the best temperature.
        kd_temperature: Of the recipe's distillation.
        entropy: Mean entropy at that temperature, in nats.
        entropy_share: The same, of the largest that so many classes allow, 0 to 1.
    """

    confidence: float
    error: float
    nll: float
    temperature: float
    nll_then: float
    error_then: float
    sought_on: int
    bins: Reliability
    bins_then: Reliability
    kd_temperature: float
    entropy: float
    entropy_share: float


@dataclass(frozen=True)
class Beside:
    """The teacher beside a student on the same rows.

    Attributes:
        run: The student's run.
        digest: Of its weights.
        status: Of its run.
        quality: Its metrics, by name.
        accuracy: The share of rows it has right; ``None`` where labels are no classes.
        nll: Its mean negative log-likelihood.
        agreement: The share of rows with the same first choice.
        kl: Mean KL(teacher || student) at temperature 1, in nats.
        only_teacher: The share that the teacher has right and the student wrong.
        only_student: The reverse.
    """

    run: str
    digest: str
    status: str
    quality: Mapping[str, float]
    accuracy: float | None = None
    nll: float | None = None
    agreement: float | None = None
    kl: float | None = None
    only_teacher: float | None = None
    only_student: float | None = None


@dataclass(frozen=True)
class Timing:
    """What a training step takes on this machine, with and without this teacher in turn.

    Attributes:
        samples: Of the batch.
        step: A step without distillation.
        teacher: The teacher's forward on such a batch.
        rest: What else distillation adds.
        overhead: Of a step with distillation, as a share of one without.
        per_sample: Seconds of the teacher's forward for one sample.
    """

    samples: int
    step: Spread
    teacher: Spread
    rest: Spread | None
    overhead: float
    per_sample: float


@dataclass(frozen=True)
class Memory:
    """What the teacher needs.

    Attributes:
        weights: Bytes of parameters and buffers.
        peak: Bytes of these and of what is there at once in a forward.
        samples: Of that forward.
        how: How that was measured.
    """

    weights: int
    peak: int
    samples: int
    how: str


@dataclass(frozen=True)
class Verdict:
    """Whether it is worth trying, and why.

    Attributes:
        good: ``True`` unless it is no better than chance, or worse than the student.
        sentences: The reasons.
    """

    good: bool
    sentences: Sequence[str]


@dataclass(frozen=True)
class Inspected:
    """Everything that was found.

    Attributes:
        recipe: Name of the recipe's run.
        device: Where all was measured.
        precision: In which.
        identity: The teacher as a model.
        layers: That can be tapped, those that were asked for.
        layers_of: How many can be tapped in all.
        no_layers: Why there are none.
        data: Label of the evaluator.
        samples: That were looked at.
        rows: Labels that count among them.
        classes: Of the answers; 0 where labels are no classes.
        quality: The task's own metrics, by name.
        accuracy: The share of rows it has right; ``None`` where labels are no classes.
        commonest: The share of the commonest label.
        calibration: ``None`` where labels are no classes.
        beside: ``None`` without a student.
        no_student: Then, why.
        timing: ``None`` where it was left out.
        memory: Of the teacher; ``None`` of a program outside of torch, where it cannot be seen.
        verdict: Worth trying or not.
        notes: What these figures do not see.
    """

    recipe: str
    device: str
    precision: str
    identity: Identity
    layers: Sequence[Layer]
    layers_of: int
    no_layers: str
    data: str
    samples: int
    rows: int
    classes: int
    quality: Mapping[str, float]
    accuracy: float | None
    commonest: float | None
    calibration: Calibration | None
    beside: Beside | None
    no_student: str
    timing: Timing | None
    memory: Memory | None
    verdict: Verdict
    notes: Sequence[str]

    def plain(self) -> dict[str, Any]:
        """All of it, in plain types; numbers that are not finite as the strings that run records have."""
        told: dict[str, Any] = asdict(self)
        for name in ('bins', 'bins_then'):
            if told['calibration'] is not None:
                told['calibration'][name] = {key: value.tolist() for key, value in told['calibration'][name].items()}
        strict: dict[str, Any] = _strict(told)
        return strict


def _strict(value: Any) -> Any:
    """As run records do, as JSON has no such numbers: ``"NaN"``, ``"Infinity"``, ``"-Infinity"``."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return 'NaN' if math.isnan(value) else 'Infinity' if value > 0 else '-Infinity'
    return value
