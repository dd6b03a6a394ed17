"""Columns of a weight decided one after the other, each making good for the errors of those before.

A layer computes `W x`. With H the mean of `x x'` over data, an error `E` of the weight changes its outputs by
`tr(E H E')`. GPTQ (Frantar et al., arXiv 2210.17323) and SparseGPT (Frantar and Alistarh, arXiv 2301.00774) decide
column after column, and move those still to come, by the inverse of H, to where they make good best for what was
decided.

Here H = R R' with R upper triangular, so that

    tr(E H E') = sum over j of |sum over i <= j of E_i R_ij|^2,

and column j is best as near to `W_j + (sum over i < j of E_i R_ij) / R_jj` as it can be. That is the same column, by
one Cholesky decomposition and without an inverse (on lattices this is Babai's nearest plane: arXiv 2507.18553).
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from lightning_compress.errors import WeightError

_BLOCK = 128
"""Columns whose errors reach later ones one by one; those of earlier blocks do in one product."""

_LEAST_DAMPENING = 1e-6
"""Inputs of which some always go together have no inverse."""


class Choice(abc.ABC):
    """Decides columns.

    Attributes:
        span: Every so many columns `begin` is told; None for never.
    """

    span: int | None = None

    def begin(self, first: int, wanted: Tensor, weights: Tensor) -> None:  # noqa: B027
        """Look at columns together before the first of them is decided.

        Args:
            first: Place of the first of them in the order of decisions.
            wanted: What they would be if all were free, (columns, G, rows of a group).
            weights: How much an error of each counts, squared, (columns, G).
        """

    @abc.abstractmethod
    def nearest(self, wanted: Tensor, place: int) -> Tensor:
        """What a column becomes.

        Args:
            wanted: What it had best be, (G, rows of a group).
            place: Its place in the order of decisions.
        """


def factorize(second: Tensor, dampening: float, order: Tensor | None = None) -> Tensor:
    """The upper triangular R of R R' = H, in single precision.

    Args:
        second: H, symmetric and positive semidefinite, (G, d, d).
        dampening: Added to the diagonal, as a share of its mean: directions that no data went along count a little too.
        order: The order in which columns are decided, (d,), and in which those of R stand; as they stand by default.

    Raises:
        WeightError: H is not finite, or far from positive semidefinite.
    """
    if not bool(torch.isfinite(torch.stack(torch.aminmax(second))).all()):
        raise WeightError(
            "what comes into the layer is NaN or infinite; check the weights of those before it, and the data"
        )
    mean = second.diagonal(dim1=-2, dim2=-1).mean(dim=-1, keepdim=True)
    # Nothing ever came in: all columns count the same.
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    added = max(dampening, _LEAST_DAMPENING) * mean
    # Double precision takes twice the time and memory, and dampening leaves it little to tell.
    for precision in (torch.float32, torch.float64):
        factor = (second.clone() if order is None else second[:, order[:, None], order]).to(precision)
        factor.diagonal(dim1=-2, dim2=-1).add_(added)
        if _factorize_in_place(factor):
            return factor.to(torch.float32)
    raise WeightError(
        "the second moments of what comes into the layer are not positive; raise hessian_dampening"
    )


def _factorize_in_place(matrix: Tensor) -> bool:
    """Put R where its upper triangle is, and zeros below; whether it was positive.

    Of wide layers this matrix is larger than the weight. `torch.linalg.cholesky` makes two more of it, and a third to
    turn, since R R' is the product of the other triangle.
    """
    columns = matrix.shape[-1]
    for start in reversed(range(0, columns, _BLOCK)):
        stop = min(start + _BLOCK, columns)
        panel = matrix[:, :stop, start:stop]
        if stop < columns:
            panel.baddbmm_(matrix[:, :stop, stop:], matrix[:, start:stop, stop:].mT, alpha=-1)
        turned, failed = torch.linalg.cholesky_ex(panel[:, start:].flip(-1, -2))
        if bool(failed.any()):
            return False
        corner = turned.flip(-1, -2)
        panel[:, start:] = corner
        if start:
            panel[:, :start] = torch.linalg.solve_triangular(
                corner.mT, panel[:, :start], upper=False, left=False
            )
    matrix.triu_()
    return True


@torch.no_grad()
def feed_back(matrix: Tensor, factor: Tensor, choice: Choice, order: Tensor | None = None) -> Tensor:
    """Decide all columns.

    Args:
        matrix: The weight, (rows, d), rows of a group following each other.
        factor: R of each group, (G, d, d), its columns already in the order of decisions.
        choice: What a column can become.
        order: The order in which columns are decided, (d,); as they stand by default.

    Returns:
        The weight decided, (rows, d).
    """
    groups, columns, _ = factor.shape
    rows = matrix.shape[0] // groups
    # Columns first, so that each lies in one piece of memory.
    weight = matrix.t().to(torch.float32)
    weight = (weight if order is None else weight[order]).reshape(columns, groups, rows).transpose(0, 1)
    weight = weight.contiguous()
    decided = torch.empty_like(weight)
    errors = torch.zeros_like(weight)
    scale = factor.diagonal(dim1=-2, dim2=-1)
    block = _BLOCK if choice.span is None else max(1, _BLOCK // choice.span) * choice.span
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        carried = factor[:, :start, start:stop].transpose(1, 2) @ errors[:, :start]
        inner = factor[:, start:stop, start:stop]
        own = errors[:, start:stop]
        for index in range(stop - start):
            place = start + index
            if choice.span is not None and place % choice.span == 0:
                last = min(index + choice.span, stop - start)
                pull = carried[:, index:last] + inner[:, :index, index:last].transpose(1, 2) @ own[:, :index]
                free = _continued(inner[:, index:last, index:last], pull)
                wanted = weight[:, place : start + last] + free
                counts = scale[:, place : start + last].square()
                choice.begin(place, wanted.transpose(0, 1), counts.transpose(0, 1))
            pull = carried[:, index]
            if index:
                pull = pull + (inner[:, :index, index].unsqueeze(1) @ own[:, :index]).squeeze(1)
            wanted = weight[:, place] + pull / scale[:, place, None]
            decided[:, place] = choice.nearest(wanted, place)
            own[:, index] = weight[:, place] - decided[:, place]
    result = decided.transpose(0, 1).reshape(columns, -1)
    if order is not None:
        result = torch.empty_like(result).index_copy_(0, order, result)
    return result.t().to(matrix.dtype)


def by_activity(second: Tensor) -> Tensor:
    """An order of columns, (d,): those first into which most comes, while all others can still make good for them."""
    return second.diagonal(dim1=-2, dim2=-1).mean(dim=0).argsort(descending=True, stable=True)


def _continued(inner: Tensor, pull: Tensor) -> Tensor:
    """By how much columns move if all are free: those whose errors cancel what is carried on to them."""
    moved: Tensor = torch.linalg.solve_triangular(inner.transpose(1, 2), pull, upper=False)
    return moved
