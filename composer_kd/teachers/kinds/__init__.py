"""Kinds of teachers: where a model comes from."""

from composer_kd.teachers.kinds.earlier import model_of_run
from composer_kd.teachers.kinds.exported import ExportedModel, load_exported
from composer_kd.teachers.kinds.hugging_face import load_hugging_face
from composer_kd.teachers.kinds.onnx_file import OnnxModel, load_onnx
from composer_kd.teachers.kinds.opaque import OpaqueModel, is_opaque
from composer_kd.teachers.kinds.registry import (
    COMMON,
    TEACHERS,
    Kind,
    check_entry,
    kind_of,
    kinds_in,
    live_kind,
    load_kind,
)
from composer_kd.teachers.kinds.timm_models import load_timm

__all__ = [
    'COMMON', 'TEACHERS', 'ExportedModel', 'Kind', 'OnnxModel', 'OpaqueModel', 'check_entry', 'is_opaque', 'kind_of',
    'kinds_in', 'live_kind', 'load_exported', 'load_hugging_face', 'load_kind', 'load_onnx', 'load_timm',
    'model_of_run',
]
