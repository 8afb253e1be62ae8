"""Layers of student and teacher: captured by hooks, brought to one width by projectors that learn with the student."""

from composer_kd.layers.learner import Learner
from composer_kd.layers.observe import loader_given, looking, run_student, sample_of
from composer_kd.layers.projector import Projector, build_projector, read_projector
from composer_kd.layers.taps import Tap, Taps, Watch, find_module

__all__ = [
    'Learner', 'Projector', 'Tap', 'Taps', 'Watch', 'build_projector', 'find_module', 'loader_given', 'looking',
    'read_projector', 'run_student', 'sample_of',
]
