"""The machine and the software, in words that another machine of the kind would share."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from composer.core import State
from composer.devices import DeviceGPU
from composer.utils import dist

from composer_kd import __version__
from composer_kd.runs import Hardware

PACKAGES = (
    'composer_kd', 'mosaicml', 'torch', 'torchvision', 'torchmetrics', 'transformers', 'timm', 'numpy', 'scikit-learn',
)


def package_versions(names: Collection[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python and of those packages that are installed.

    Args:
        names: Distribution names.

    Example:
        >>> sorted(package_versions(['torch', 'not-installed-anywhere']))
        ['python', 'torch']
    """
    versions = {'python': platform.python_version()}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    # What runs may not be what is installed: a checkout of this package, a build of torch (2.7.0+cu126).
    running = {'composer_kd': __version__, 'torch': str(torch.__version__)}
    versions.update({name: running[name] for name in running if name in names})
    return versions


def cpu_model() -> str:
    """The processor's name, as the operating system has it."""
    try:
        for line in Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines():
            if line.lower().startswith('model name'):
                return line.partition(':')[2].strip()
    except (OSError, UnicodeDecodeError):
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float:
    try:
        return round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return 0.0


def hardware(state: State) -> Hardware:
    """The machine that trains: no host name, no path, no serial number.

    Args:
        state: The training state, for the device and, with the process group, the number of accelerators.
    """
    on_gpu = isinstance(state.device, DeviceGPU)
    affinity = getattr(os, 'sched_getaffinity', None)
    return Hardware(
        platform=f'{platform.system()} {platform.machine()}',
        cpu=cpu_model(),
        cpu_cores=len(affinity(0)) if affinity else os.cpu_count() or 0,
        memory_gib=_memory_gib(),
        gpu=torch.cuda.get_device_name() if on_gpu else None,
        gpu_count=dist.get_world_size() if on_gpu else 0,
    )
