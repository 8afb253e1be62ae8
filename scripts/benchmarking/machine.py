"""The machine that measures, in words, and how fast it can be."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass

import torch

from benchmarking.peers import versions
from composer_kd.callbacks.machine import cpu_model, package_versions

PEAK_TFLOPS = {
    'H200 NVL': 835.5, 'H200': 989.4, 'H100 NVL': 835.5, 'H100 PCIe': 756.0, 'H100': 989.4, 'A100': 311.9,
}
"""Of bf16 matrix products without sparsity, by a part of the GPU's name; the first that fits. NVIDIA's data sheets."""


@dataclass(frozen=True)
class Machine:
    """What measured.

    Attributes:
        cpu: Its model.
        cores: Those this process may use.
        threads: Of each measured process.
        gpu: Its name, or ``None``.
        peak_tflops: Of bf16 products, where it is known.
        versions: Of Python and packages, peers among them.
    """

    cpu: str
    cores: int
    threads: int
    gpu: str | None
    peak_tflops: float | None
    versions: dict[str, str]

    def told(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    def describe(self) -> str:
        """One line."""
        where = f'{self.cpu}, {self.threads} of {self.cores} cores'
        if self.gpu is not None:
            where = f'{self.gpu}; host {where}'
        names = ('torch', 'mosaicml', 'transformers', 'torchdistill', 'nvidia-modelopt', 'timm')
        return f"{where}; " + ', '.join(f'{name} {self.versions[name]}' for name in names if name in self.versions)


def cores() -> int:
    """How many this process may use."""
    affinity = getattr(os, 'sched_getaffinity', None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def peak_of(gpu: str | None) -> float | None:
    """The peak of a GPU by its name, in TFLOP/s.

    Example:
        >>> peak_of('NVIDIA H100 80GB HBM3'), peak_of('NVIDIA H100 PCIe'), peak_of('Some GPU')
        (989.4, 756.0, None)
    """
    return None if gpu is None else next((peak for name, peak in PEAK_TFLOPS.items() if name in gpu), None)


def machine_of(gpu: bool, threads: int, peak_tflops: float | None) -> Machine:
    """This one."""
    name = torch.cuda.get_device_name() if gpu else None
    peers = {package: version for package, version in versions().items() if version is not None}
    return Machine(
        cpu_model(), cores(), threads, name, peak_tflops if peak_tflops is not None else peak_of(name),
        {**package_versions(), **peers},
    )
