"""Whether data and model speak of the same things, before the first batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer.core import DataSpec
from composer.models import ComposerModel

from composer_kd.models import Traits
from composer_kd.teachers import outputs_known


def _places(model: ComposerModel) -> int | None:
    places = getattr(getattr(model, 'config', None), 'max_position_embeddings', None)
    return places if isinstance(places, int) else None


def tell_traits(model: ComposerModel, data: Any) -> None:
    """Tell a model what its data says of itself (``dataset.traits``), so that teachers can be made to fit.

    Args:
        model: The model; it gets ``traits``.
        data: A loader or data spec.
    """
    dataset = getattr(data.dataloader if isinstance(data, DataSpec) else data, 'dataset', None)
    said = getattr(dataset, 'traits', None)
    if isinstance(said, Traits):
        model.traits = said  # type: ignore[assignment]


def check_fit(model: ComposerModel, data: Mapping[str, Any]) -> None:
    """Hold what data says of itself (``num_classes``, ``vocabulary``, ``max_seq_len``) against the model.

    Args:
        model: The model.
        data: The loaders or data specs, by their path in the recipe.

    Raises:
        ValueError: For another number of classes, another vocabulary, or sequences longer than the model takes.
    """
    for where, built in data.items():
        dataset = getattr(built.dataloader if isinstance(built, DataSpec) else built, 'dataset', None)
        classes, outputs = getattr(dataset, 'num_classes', None), outputs_known(model)
        if isinstance(classes, int) and outputs is not None and classes != outputs:
            raise ValueError(
                f"{where}: its labels are of {classes} classes and the model has {outputs} outputs. Set the model's "
                "number of classes and the data's to the same, or give other data.",
            )
        longest, places = getattr(dataset, 'max_seq_len', None), _places(model)
        if isinstance(longest, int) and places is not None and longest > places:
            raise ValueError(
                f'{where}.max_seq_len: {longest} tokens, and the model has places for {places}. Make it {places} or '
                'less, or model.max_position_embeddings larger.',
            )
        words = getattr(dataset, 'vocabulary', None)
        if words is not None:
            own = getattr(model, 'vocabulary', None)
            if own is not None and words != own:
                raise ValueError(
                    f"{where}: its tokenizer numbers words otherwise than the model's. Give both the same tokenizer "
                    "(model.tokenizer: '${train_data.tokenizer}').",
                )
