"""Contrastive representation distillation among the samples of a microbatch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from composer_kd.functional.checks import check_class_labels, check_temperature
from composer_kd.functional.features.shapes import kept, pair, samples
from composer_kd.functional.reduction import reduce_rows
from composer_kd.functional.relations import unit


def contrastive(
    student: Tensor,
    teacher: Tensor,
    *,
    labels: Tensor | None = None,
    temperature: float = 0.07,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Noise-contrastive estimation between student and teacher (Tian et al. 2020, CRD, arXiv 1910.10699, section 3.1,
    equations 9, 10 and 19).

    .. math:: -\log h_{ii} - \sum_{j} \log (1 - h_{ij}) - \log h_{ii} - \sum_{j} \log (1 - h_{ji}), \quad
        h_{ij} = \frac{e^{s_i \cdot t_j / \tau}}{e^{s_i \cdot t_j / \tau} + n_i Z}

    of unit vectors, over the :math:`n_i` other samples :math:`j` that are not of the class of :math:`i`, where labels
    are
    given. :math:`Z`, which stands for the paper's :math:`1 / M` once similarities are made probabilities, is the mean
    of
    :math:`e^{s \cdot t / \tau}` over the pairs of this call, without a gradient; the authors' code keeps that of its
    first batch.

    Departures from the paper, as a batch does not say which samples it holds: negatives are the other samples of the
    microbatch, where the paper keeps a memory of all samples' embeddings and draws 16,384 of them; and the student's
    features come through a projector to the teacher's own features, where the paper learns an embedding of 128 for
    both.
    A sample without another to tell it from gives zero.

    Args:
        student: ``(N, D)``; maps ``(N, C, H, W)`` are flattened, of tokens ``(N, L, D)`` the mean of those that count
            is
            taken. Any floating-point dtype. The gradient goes here.
        teacher: Of the same shape; gets no gradient.
        labels: Class numbers ``(N,)``, or ``None``: then all other samples are negatives.
        temperature: :math:`\tau`, above 0.
        mask: Which tokens count, ``(N, L)``, or which samples, ``(N,)``. ``None``: all.
        reduction: ``'mean'`` over what counts, or ``'none'``.

    Returns:
        Nats, float32 or float64: 0-d, or ``(N,)`` for ``reduction='none'``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> points = torch.eye(2)
        >>> contrastive(points, points, temperature=1.0), contrastive(points, points.flip(0), temperature=1.0)
        (tensor(1.9031), tensor(3.9031))
    """
    check_temperature(temperature)
    one, other = (unit(samples(x, mask)) for x in pair(student, teacher, (2, 3, 4), mask))
    if labels is not None:
        check_class_labels(labels, one.shape[:1], 'labels')
    keep = kept(mask)
    keep = torch.ones(len(one), dtype=torch.bool, device=one.device) if keep is None else keep
    pairs = keep[:, None] & keep[None, :]
    itself = torch.eye(len(one), dtype=torch.bool, device=one.device)
    negative = pairs & ~itself
    if labels is not None:
        negative = negative & (labels[:, None] != labels[None, :])
    alike = one @ other.T / temperature
    level = alike.detach().masked_fill(~pairs, -torch.inf).flatten().logsumexp(0)
    level = level - pairs.sum().clamp_min(1).to(alike).log()
    level = torch.where(pairs.any(), level, 0)
    count = negative.sum(1)
    found = torch.zeros_like(alike[:, :1]).squeeze(1)
    for table in (alike, alike.T):
        odds = table - level - count.clamp_min(1).to(alike).log()[:, None]
        apart = -F.logsigmoid(-odds).masked_fill(~negative, 0).sum(1)
        found = found - F.logsigmoid(odds.diagonal()) + apart
    return reduce_rows(found * count.gt(0), kept(mask), reduction)
