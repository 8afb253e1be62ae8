"""The run folder: the one interface between training and everything after it. Imports no torch."""

from composer_kd.runs.files import digest, write_atomically
from composer_kd.runs.folder import RunFolder
from composer_kd.runs.record import (
    SCHEMA_VERSION,
    Distilled,
    Evaluation,
    Flops,
    Hardware,
    Record,
    TeacherUse,
    schema_markdown,
)

__all__ = [
    'SCHEMA_VERSION',
    'Distilled',
    'Evaluation',
    'Flops',
    'Hardware',
    'Record',
    'RunFolder',
    'TeacherUse',
    'digest',
    'schema_markdown',
    'write_atomically',
]
