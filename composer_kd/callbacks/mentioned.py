"""What a checkpoint was distilled from, kept for a trainer that goes on from it without distillation."""

from __future__ import annotations

import warnings

from composer.core import State

from composer_kd.callbacks.estimate import find_distillation


class Mentioned:
    """The teachers of a training in words, saved with whatever saves this.

    Attributes:
        text: The teachers; empty for a training without distillation.
    """

    def __init__(self, text: str = '') -> None:
        self.text = text

    def fit_start(self, state: State) -> None:
        """Note the teachers, or warn that a checkpoint had some and this trainer has none."""
        distillation = find_distillation(state)
        if distillation is not None:
            self.text = ', '.join(f"{t['name']} ({t['origin']})" for t in distillation.summary()['teachers'])
        elif self.text:
            warnings.warn(
                f'The checkpoint that this training goes on from was made with distillation from {self.text}. This '
                'trainer has no Distillation, so it goes on with the own loss of the model alone. Add the algorithm to '
                'go on as before.', stacklevel=2,
            )
