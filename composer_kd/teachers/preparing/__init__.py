"""A teacher as an inference workload: prepared once, and checked to answer as it did."""

from composer_kd.teachers.preparing.asked import AUTO, Prepare, prepare_opaque, read_prepare
from composer_kd.teachers.preparing.checking import agreement, relative_error
from composer_kd.teachers.preparing.copies import sharing_copy
from composer_kd.teachers.preparing.folding import find_pairs, fold
from composer_kd.teachers.preparing.prepared import Prepared
from composer_kd.teachers.preparing.settling import settle as settle_prepared
from composer_kd.teachers.preparing.steps import (
    Step,
    choose_steps,
    refuse_impossible,
    tolerance_of,
    with_resolution,
)

__all__ = [
    'AUTO',
    'Prepare',
    'Prepared',
    'Step',
    'agreement',
    'choose_steps',
    'find_pairs',
    'fold',
    'prepare_opaque',
    'read_prepare',
    'refuse_impossible',
    'relative_error',
    'settle_prepared',
    'sharing_copy',
    'tolerance_of',
    'with_resolution',
]
