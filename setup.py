"""Package definition; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r"__version__ = '(.+?)'", (here / 'composer_kd' / '__init__.py').read_text())
assert version is not None

requires = [
    'mosaicml>=0.32,<0.33',
    'torch>=2.6',
    'torchvision',
    'torchmetrics',
    'mosaicml-streaming>=0.11,<1',
    'simplejpeg>=1.7,<2',
    'pillow>=9.1',
    'datasets>=3.1',
    'transformers>=4.40,<5',
    'numpy>=1.26',
    'scipy>=1.10',
    'omegaconf>=2.3,<3',
    'pydantic>=2.7,<3',
    'PyYAML',
    'click>=8.1',
    'rich>=13',
    'matplotlib>=3.7',
    # studies: searches, storage, who works on what
    'optuna>=4.2,<6',
    'sqlalchemy>=2,<3',
    'psutil>=5.9',
    'tqdm>=4.60',
    # the report's page
    'plotly>=5.24,<8',
    'jinja2>=3.1',
    'scikit-learn>=1.3',
    'safetensors>=0.4',
]
extras = {
    # what make test and make lint need
    'test': [
        'pytest>=8', 'pytest-xdist>=3.7', 'hypothesis>=6', 'ruff>=0.6', 'mypy>=1.11', 'types-PyYAML', 'pre-commit>=3',
        'psycopg[binary]>=3.1', 'cmaes>=0.10', 'timm>=1.0.16', 'onnxruntime>=1.19,<2', 'onnx>=1.17',
        'tensorboard>=2.15', 'setuptools>=70.1',  # what Composer's logger writes is read; an example package is built
        'playwright>=1.40',  # drives the Chromium of the machine; downloads none
    ],
    # a study's storage that several machines share; cmaes is Optuna's sampler of that name
    'postgresql': ['psycopg[binary]>=3.1'],
    'mysql': ['pymysql>=1'],
    'cmaes': ['cmaes>=0.10'],
    'dashboard': ['optuna-dashboard>=0.15'],
    # teachers of timm, and of ONNX files
    'timm': ['timm>=1.0.16'],
    'onnx': ['onnxruntime>=1.19,<2'],
    # teachers in object stores; each is what Composer itself needs for that store
    's3': ['boto3>=1.21'],
    'gcs': ['mosaicml[gcs]>=0.32,<0.33'],
    'oci': ['mosaicml[oci]>=0.32,<0.33'],
    'databricks': ['mosaicml[databricks]>=0.32,<0.33'],
    # what scripts/benchmark.py measures us against: the last that go with the torch that mosaicml 0.32 asks for
    'peers': ['torchdistill>=1.1.4,<1.1.5', 'nvidia-modelopt>=0.43,<0.44', 'timm>=1.0.31'],
    # loggers
    'tensorboard': ['mosaicml[tensorboard]>=0.32,<0.33'],
    'wandb': ['mosaicml[wandb]>=0.32,<0.33', 'wandb<0.22'],  # Composer's logger asks a run of later ones in vain
    'mlflow': ['mosaicml[mlflow]>=0.32,<0.33'],
    'comet_ml': ['mosaicml[comet-ml]>=0.32,<0.33'],
    'neptune': ['mosaicml[neptune]>=0.32,<0.33'],
    'slack': ['mosaicml[slack]>=0.32,<0.33'],
}

setup(
    name='composer_kd',
    version=version.group(1),
    description='Knowledge distillation from earlier training runs, for MosaicML Composer',
    long_description=(here / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['composer_kd', 'composer_kd.*']),
    package_data={'composer_kd': ['py.typed', 'report/templates/*']},
    python_requires='>=3.10,<3.13',
    install_requires=requires,
    extras_require=extras,
    entry_points={
        'console_scripts': ['composer-kd = composer_kd.cli:main'],
        # llm-foundry's YAML: algorithms: {distillation: {...}}
        'llmfoundry_algorithms': ['distillation = composer_kd.distillation:Distillation'],
    },
)
