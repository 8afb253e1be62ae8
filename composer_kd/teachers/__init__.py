"""A frozen model and how it is loaded, run and looked at."""

from composer_kd.teachers.aligning import Align, Alignment
from composer_kd.teachers.build import AnyTeacher, build_teachers, known_outputs, look_at_teachers
from composer_kd.teachers.kinds import TEACHERS, Kind, kind_of, kinds_in, live_kind, model_of_run
from composer_kd.teachers.look import Look
from composer_kd.teachers.placement import AUTO_SHARE, PLACEMENTS, settle
from composer_kd.teachers.pool import Pool
from composer_kd.teachers.preparing import Prepare, read_prepare, settle_prepared
from composer_kd.teachers.specs import TeacherSpec, parse_teachers
from composer_kd.teachers.teacher import Teacher, outputs_known
from composer_kd.teachers.weights import digest_of, read_weights

__all__ = [
    'AUTO_SHARE',
    'PLACEMENTS',
    'TEACHERS',
    'Align',
    'Alignment',
    'AnyTeacher',
    'Kind',
    'Look',
    'Pool',
    'Prepare',
    'Teacher',
    'TeacherSpec',
    'build_teachers',
    'digest_of',
    'kind_of',
    'kinds_in',
    'known_outputs',
    'live_kind',
    'look_at_teachers',
    'model_of_run',
    'outputs_known',
    'parse_teachers',
    'read_prepare',
    'read_weights',
    'settle',
    'settle_prepared',
]
