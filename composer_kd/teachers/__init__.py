"""A frozen model and how it is loaded, run and looked at."""

from composer_kd.teachers.build import build_teachers, model_of_run
from composer_kd.teachers.look import Look
from composer_kd.teachers.specs import TeacherSpec, parse_teachers
from composer_kd.teachers.teacher import Teacher
from composer_kd.teachers.weights import digest_of, read_weights

__all__ = [
    'Look', 'Teacher', 'TeacherSpec', 'build_teachers', 'digest_of', 'model_of_run', 'parse_teachers', 'read_weights',
]
