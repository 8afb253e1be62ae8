"""The plot of what distillation adds to a batch, part by part."""

from __future__ import annotations

from collections.abc import Sequence

from composer_kd.report.overhead import OverheadSplit
from composer_kd.report.plots import Axis, Layer, Plot, Style

# Parts are no methods: colours of their own, from dark to pale in the order in which they are stacked.
PARTS = {
    'teacher': Style('#44546A'), 'loss': Style('#8497B0'), 'data': Style('#C9B27C'), 'rest': Style('#D0D0D0'),
}


def overhead_split(splits: Sequence[OverheadSplit], baseline: str) -> Plot | None:
    """What distillation adds to the training time of a batch: lying bars, a method each, a colour for each part.

    Args:
        splits: See :func:`composer_kd.report.overhead.split`, in the order from top to bottom.
        baseline: The method that the shares are of.

    Returns:
        The plot; ``None`` if no method has a split.
    """
    told = [split for split in splits if split.total is not None]
    if not told:
        return None
    layers = []
    for part, look in PARTS.items():
        lengths = [getattr(split, part) for split in told]
        if all(length is None for length in lengths):
            continue
        layers.append(Layer(
            part, 'bars', look, [100 * (length or 0.0) for length in lengths], list(range(len(told))),
            hover=[
                f'{split.method}\n{part}: {"not recorded" if length is None else f"{100 * length:.1f} %"}\n'
                f'in all {100 * (split.total or 0.0):.1f} % longer than {baseline}'
                for split, length in zip(told, lengths, strict=True)
            ],
        ))
    return Plot(
        key='overhead',
        title='What distillation adds to a batch',
        marks=f'Bars: shares of the training time of a batch of {baseline}, medians over runs',
        reading='Teacher and loss are as recorded; data is more waiting for data; the rest is what is left of the '
                'difference in training time: the backward pass of the loss, and the noise of the machine, which may '
                'bring it below 0.',
        x=Axis(f'Longer than {baseline}', suffix=' %'),
        y=Axis('', names=tuple(split.method for split in told)),
        layers=tuple(layers),
        rule=0.0,
        rule_axis='x',
    )
