"""What may be in a program of ``torch.export``: operations on tensors, sizes, and nothing that could run code.

Torch looks up the names of a program's functions in its own modules, down to those it imports itself, and hands the
texts of its sizes to SymPy, which evaluates them as Python.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

_OPERATORS = 'add|sub|mul|neg|pos|pow|truediv|floordiv|mod|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_|xor|lshift|rshift'
_FUNCTIONS = re.compile(
    r'torch\.ops\.(aten|prims|torchvision|higher_order)\.\w+(\.\w+)?'
    rf'|_operator\.({_OPERATORS})'
    r'|torch\.sym_\w+|torch\._sym_sqrt|math\.(trunc|ceil|floor)'
    r'|torch\._check',
)
_ARITHMETIC = re.compile(r'__i?(and|or|xor|lshift|rshift)__')
_FILES = re.compile(r'\.(from_file|save|load|_save|_load)\b')
"""Operations of ATen that read or write files."""

_SYMBOL = re.compile(
    r"Symbol\('([A-Za-z]+\d+)'(?:, (?:positive|negative|nonnegative|integer|real|zero)=(?:True|False))*\)",
)
_SIZE = re.compile(r'[\w\s+\-*/%()<>=!&|~,]*')
_WORDS = re.compile(
    r'[A-Za-z]?\d+|[su]\d+|(zuf|zf|ps)\d+|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|ModularIndexing|Where|Pow|'
    r'PowByNatural|Abs|Eq|Ne|Le|Lt|Ge|Gt|And|Or|Not|True|False|int_oo|oo|IntTrueDiv|FloatTrueDiv|TruncToInt|CeilToInt|'
    r'FloorToInt|RoundToInt|ToFloat|Identity|Rational|Integer|Float',
)


_INPUT = re.compile(r"L(?:\[(?:'\w+'|\d+)\])+(?:\.(?:size|stride)\(\)\[\d+\]|\.(?:dim|storage_offset)\(\))?")
"""An input's size in the conditions that newer versions of torch write down, which are Python too."""


def _walk(value: Any, key: str = '') -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _walk(inner, name)
    elif isinstance(value, list):
        for inner in value:
            _walk(inner, key)
    elif isinstance(value, str):
        if key == 'expr_str':
            _check_size(value)
        elif key == 'guards_code':
            _check_size(re.sub(r'\b(and|or|not)\b', ' ', _INPUT.sub('0', value)))
        elif key == 'target':
            _check_function(value)
        elif 'defaultdict' in value or ('treespec' in value and '__main__' in value):
            raise pickle.UnpicklingError(f'it asks for {value[:80]!r}')


def _check_size(text: str) -> None:
    text = _SYMBOL.sub(r'\1', text)
    words = re.findall(r'[A-Za-z_]\w*', text)
    if not _SIZE.fullmatch(text) or not all(_WORDS.fullmatch(word) for word in words):
        raise pickle.UnpicklingError(f'its sizes are {text[:80]!r}')


def _check_function(name: str) -> None:
    inner = [part for part in name.split('.') if part.startswith('__') and not _ARITHMETIC.fullmatch(part)]
    if not _FUNCTIONS.fullmatch(name) or _FILES.search(name) or inner:
        raise pickle.UnpicklingError(f'it asks for {name[:80]}')


def refuse_code(path: Path) -> None:
    """Refuse an exported program that could run code when it is read or run.

    Args:
        path: The file.

    Raises:
        pickle.UnpicklingError: Naming what it asks for.
        ValueError: If it is no archive, or has no program in it.
    """
    programs = 0
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith('.json'):
                    _walk(json.loads(archive.read(name)))
                    programs += 1
                elif name.endswith(('.so', '.cubin', '.cpp', '.py', '.o')):
                    raise pickle.UnpicklingError(f'it holds the compiled file {name}')
    except (zipfile.BadZipFile, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f'it is no archive of a program, or damaged: {error}') from error
    except RecursionError as error:
        raise pickle.UnpicklingError('it is nested too deeply') from error
    if not programs:
        raise ValueError('there is no program in it')
