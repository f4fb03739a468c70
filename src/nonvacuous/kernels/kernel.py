"""What an infinitely wide network is to a pair of inputs: two numbers, or two matrices for two samples."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Kernel(NamedTuple):
    """nngp: covariance of the outputs at initialisation; ntk: inner product of the outputs' gradients. Both ``[n1, n2]``.

    Source: Lee et al. 2018 (nngp); Jacot, Gabriel and Hongler 2018 (ntk).
    """

    nngp: Tensor
    ntk: Tensor
