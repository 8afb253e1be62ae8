"""How many logits student and teachers have in common, where a vocabulary is padded."""

from __future__ import annotations

from collections.abc import Sequence

from composer_kd.teachers.build import AnyTeacher


def shared_by(teachers: Sequence[AnyTeacher]) -> int | None:
    """To how many logits all are cut, so that several answers can be averaged.

    Raises:
        ValueError: If stored answers are of more words and not all there.
    """
    known = [teacher.shared for teacher in teachers if teacher.shared is not None]
    least = min(known) if known else None
    for teacher in teachers:
        form = None if teacher.keeper is None else teacher.keeper.form
        if least is not None and form is not None and form.name != 'dense' and form.classes > least:
            raise ValueError(
                f"vocabulary: the logits of all are cut to the {least} words that student and teachers share, and the "
                f"stored answers of teacher '{teacher.name}' ({form.describe()}) are of {form.classes}. Store them as "
                'dense.',
            )
    return least
