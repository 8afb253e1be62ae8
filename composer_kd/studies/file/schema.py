"""What a study is: read from its file, checked, and what of it may change while it goes on."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, field_validator, model_validator

from composer_kd.names import snake_case
from composer_kd.recipes.errors import in_one_paragraph
from composer_kd.recipes.layers import override, read_layers, resolve
from composer_kd.runs.study import StudyNote, lower_is_better
from composer_kd.studies.file.checks import check_together
from composer_kd.studies.file.dotted import override_dotted
from composer_kd.studies.file.fields import (
    CountOrZero,
    Folder,
    Metric,
    Name,
    Seeds,
    Set,
    Strict,
    Text,
    choice,
    over,
    slug,
)
from composer_kd.studies.file.parts import (
    Comparison,
    Earlier,
    Method,
    Range,
    Search,
    Shown,
    Stored,
    TeacherPolicy,
    Where,
    check_distillation,
)
from composer_kd.studies.file.parts import Sequence as Steps
from composer_kd.studies.file.stored import check_stored

__all__ = [
    'Comparison', 'Earlier', 'Method', 'Range', 'Search', 'Shown', 'Steps', 'Stored', 'StudySpec', 'TeacherPolicy',
    'Where', 'load_study', 'parse_study', 'snake_case',
]

_WITHOUT_EFFECT = ('run_name', 'run_folder', 'description', 'tags', 'overwrite', 'progress_bar', 'log_to_console')


class StudySpec(Strict):
    """A study: a recipe, what varies, which earlier runs teach, and where runs go.

    ``recipe``, ``set``, ``teachers`` and ``distillation`` are what a method that leaves the key out takes; in
    ``methods`` that is done already.

    Attributes:
        name: Of the study, a name that can be a folder.
        description: One line.
        folder: Where everything is written, from the current folder; default ``runs/NAME``.
        storage: SQLAlchemy URL of the database that workers share; default: SQLite in ``folder``. It may hold a
            password and is written to no file.
        recipe: Path of the base recipe.
        set: Dotted recipe key to value, for all runs.
        metric: The quality, ``evaluator/metric``.
        higher_is_better: Whether a high value of it is a good one; ``None``: told from its name.
        seeds: Of the replicates.
        methods: Name to :class:`Method`, compared with each other; default: one of the name ``runs``.
        comparison: Exactly one of these three kinds is not ``None``.
        search: See :class:`Search`.
        sequence: See :class:`Steps`.
        teachers: Which finished runs teach; ``None`` for none.
        distillation: Settings of :class:`composer_kd.Distillation`.
        where: Where runs are made.
        retries: How often a run whose process died is started again, before it counts as failed.
        keep: Checkpoints kept: ``all``, ``needed`` (what a later run may be taught by, also one that is yet to be
            added to the study; and the best), ``best`` (what the planned runs may be taught by, in the end the best).
        report: What its report says.

    Example:
        >>> spec = load_study('yamls/studies/quickstart.yaml')
        >>> isinstance(spec, StudySpec), spec.name, list(spec.methods)[:2]
        (True, 'quickstart', ['baseline', 'always on'])
    """

    name: Name
    description: str = ''
    folder: Folder = Path()
    storage: str | None = Field(default=None, repr=False)
    recipe: Text | None = None
    set: Set = Field(default_factory=dict)
    metric: Metric
    higher_is_better: bool | None = None
    seeds: Seeds = Field(default_factory=lambda: [0])
    methods: dict[str, Method] = Field(default_factory=lambda: {'runs': Method()})
    comparison: Comparison | None = None
    search: Search | None = None
    sequence: Steps | None = None
    teachers: TeacherPolicy | None = None
    distillation: dict[str, Any] = Field(default_factory=dict)
    where: Where = Field(default_factory=Where)
    retries: CountOrZero = 2
    keep: Annotated[str, choice('all', 'needed', 'best')] = 'all'
    report: Shown = Field(default_factory=Shown)

    _recipes: dict[str, Any] = PrivateAttr(default_factory=dict)

    @field_validator('storage')
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r'[\w]+(\+\w+)?://', value):
            # Not what came: it may hold a password.
            raise ValueError(
                "expected the URL of a database, as in 'postgresql+psycopg://user@host/name' or "
                "'sqlite:///folder/study.db', got a string that does not begin so.",
            )
        return value

    @field_validator('distillation')
    @classmethod
    def _no_teachers(cls, value: dict[str, Any]) -> dict[str, Any]:
        return check_distillation(value)

    @model_validator(mode='after')
    def _merged(self, info: ValidationInfo) -> StudySpec:
        beside = (info.context or {}).get('beside', Path())
        self.__dict__['folder'] = self.folder if self.folder != Path() else Path('runs') / self.name
        self.__dict__['methods'] = {name: self._method(name, said, beside) for name, said in self.methods.items()}
        check_together(self)
        return self

    def _method(self, name: str, said: Method, beside: Path) -> Method:
        recipe = said.recipe or self.recipe
        if recipe is None:
            raise ValueError(f".methods.{name}: has no recipe; give one here, or the key recipe for all methods.")
        teachers = said.teachers if 'teachers' in said.model_fields_set else self.teachers
        if teachers is None and said.distillation:
            raise ValueError(
                f".methods.{name}.distillation: there is nobody to learn from; say which runs teach under teachers, or "
                'leave it out (a recipe that brings its own teachers keeps its distillation).',
            )
        if teachers is None and said.cache is not None:
            raise ValueError(
                f".methods.{name}.cache: there is nobody whose answers could be stored; say which runs teach under "
                'teachers, or leave it out.',
            )
        own = 'distillation' in said.model_fields_set
        return Method.model_construct(
            recipe=os.path.normpath(beside / recipe),
            set=over(self.set, said.set),
            teachers=teachers,
            distillation={} if teachers is None else said.distillation if own else self.distillation,
            cache=said.cache,
        )

    @property
    def kind(self) -> Literal['comparison', 'search', 'sequence']:
        """Which of the three it is."""
        if self.comparison is not None:
            return 'comparison'
        return 'search' if self.search is not None else 'sequence'

    @property
    def is_higher_better(self) -> bool:
        """Whether a high value of the metric is a good one: as said, or else told from its name."""
        return not lower_is_better(self.metric) if self.higher_is_better is None else self.higher_is_better

    @property
    def baseline(self) -> str | None:
        """The method that the others are compared with; ``None`` if all have teachers and none is named."""
        alone = [name for name, method in self.methods.items() if method.teachers is None]
        return self.report.baseline or (alone[0] if alone else None)

    @property
    def runs_folder(self) -> Path:
        """The folder of the run folders."""
        return self.folder / 'runs'

    def answers_folder(self, method: str) -> Path:
        """The folder of the stored answers of a method's teachers, each in one of its own."""
        return self.folder / 'answers' / slug(method)

    @property
    def storage_url(self) -> str:
        """URL of the database."""
        return self.storage or f"sqlite:///{self.folder / 'study.db'}"

    def note(self) -> StudyNote:
        """What a report needs to know of it."""
        return StudyNote(
            name=self.name, kind=self.kind, description=self.description, metric=self.metric,
            higher_is_better=self.is_higher_better, baseline=self.baseline, reference=self.report.reference,
            cost=self.report.cost, steady_price=self.report.steady_price, title=self.report.title or '',
            label=self.report.label or '', methods=list(self.methods), runs=self.runs_folder.name,
        )

    def digest_parts(self) -> dict[str, Any]:
        """What its runs follow from, as plain data: what may not change while it goes on.

        Recipes are in it by what they say, bases merged, and not by their paths. Left out is what may change: seeds,
        durations and budgets, storage, folder and machines, retries, ``keep``, report and description. Methods and
        steps may be added but not changed: see :func:`composer_kd.studies.file.changes.changed`.
        """
        methods = {}
        for name, method in self.methods.items():
            said = method.model_dump(exclude={'recipe'} if method.cache is not None else {'recipe', 'cache'})
            methods[name] = {**said, 'recipe': self._recipes.get(method.recipe, method.recipe)}
        parts: dict[str, Any] = {
            'name': self.name, 'kind': self.kind, 'metric': self.metric, 'higher_is_better': self.is_higher_better,
            'methods': methods, 'gpus_per_run': self.where.gpus_per_run,
        }
        if self.comparison is not None and self.comparison.earlier is not None:
            earlier = self.comparison.earlier
            parts['earlier'] = {**earlier.model_dump(), 'method': earlier.method or self.baseline}
        if self.search is not None:
            said = self.search.model_dump(exclude={'runs', 'hours', 'gpu_hours'})
            space = {key: item.model_dump() if isinstance(item, Range) else item for key, item in said['space'].items()}
            parts['search'] = {**said, 'space': space}
        if self.sequence is not None:
            parts['steps'] = self.sequence.steps
        return parts


def parse_study(said: dict[str, Any], beside: str | os.PathLike[str] = '.') -> StudySpec:
    """The study of plain data.

    Args:
        said: What a study file says.
        beside: The folder that recipes are relative to.

    Raises:
        ValueError: For what no study may say; in one paragraph.
        FileNotFoundError: For a missing recipe.
    """
    try:
        spec = StudySpec.model_validate(said, context={'beside': Path(beside)})
    except ValidationError as error:
        raise ValueError(in_one_paragraph(error, 'study')) from error
    for name, method in spec.methods.items():
        if method.recipe not in spec._recipes:
            if not Path(method.recipe).is_file():
                own = (said.get('methods') or {}).get(name) or {}
                where = f'methods.{name}.recipe' if own.get('recipe') else 'recipe'
                raise FileNotFoundError(
                    f"{where}: there is no file '{method.recipe}'. Give a path from the study file's folder.",
                )
            content = read_layers(method.recipe)
            spec._recipes[method.recipe] = {k: v for k, v in content.items() if k not in _WITHOUT_EFFECT}
    check_stored(spec, spec._recipes)
    return spec


def load_study(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> StudySpec:
    r"""Read a study file.

    ``base: other.yaml`` is merged under it, as in a recipe. Interpolations such as ``${name}`` or ``${oc.env:DATA}``
    are the study's own and resolved; one that is meant for the recipe is written ``\${...}``. Paths of recipes are
    relative to this file.

    Args:
        path: The file.
        overrides: ``key=value`` with a dotted key, the value in YAML; below ``set``, ``search.space`` and the like the
            rest of the key is the recipe's (``set.optimizer.lr=0.1``).

    Returns:
        The study.

    Raises:
        FileNotFoundError: For a missing file, base or recipe.
        ValueError: For what no study may say; in one paragraph.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / 'recipe.yaml').write_text('max_duration: 2ep')
        >>> _ = (folder / 'study.yaml').write_text('''
        ... name: windows
        ... recipe: recipe.yaml
        ... metric: test/MulticlassAccuracy
        ... methods: {baseline: {}, taught: {teachers: latest}}
        ... sequence: {steps: [{train_data.train_size: 200}, {train_data.train_size: 400}]}
        ... ''')
        >>> spec = load_study(folder / 'study.yaml', ['seeds=3'])
        >>> spec.kind, spec.seeds, spec.baseline, spec.methods['taught'].teachers.policy
        ('sequence', [0, 1, 2], 'baseline', 'latest')
    """
    said = read_layers(path, 'study')
    for text in overrides:
        said = override_dotted(said, text) or override(said, text)
    return parse_study(resolve(said, path), Path(path).parent)
