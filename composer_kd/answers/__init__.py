"""Teachers' answers, written down once and read by every later run."""

from composer_kd.answers.formats import Format
from composer_kd.answers.loading import Notes, SampleLoader, Source
from composer_kd.answers.manifest import Identity, Manifest
from composer_kd.answers.sparse import Answer, Sparse, on_the_same
from composer_kd.answers.store import Store

__all__ = [
    'Answer',
    'Format',
    'Identity',
    'Manifest',
    'Notes',
    'SampleLoader',
    'Source',
    'Sparse',
    'Store',
    'on_the_same',
]
