"""Extreme eigenpairs of a symmetric operator that can only be multiplied, with residuals that are measured and flags that say so.

Lanczos with full reorthogonalisation. All coefficients of the orthogonalisation are kept, so that A V = V H + rounding holds whatever
happened, and the residual of a Ritz pair is read off H without more products. A single Krylov space holds one copy of a multiple
eigenvalue; after convergence a fresh random vector, orthogonal to all before, starts a second one, and eigenvalues that it brings up
are taken in. When the basis is full, it restarts from the best Ritz vectors (Wu and Simon 2000, thick restart).

An operator may propose where to start: ``operator.start(generator)`` gives a vector in which the largest eigenvectors weigh more than
in a random one, which saves the products that would bring them up. Half of every start is random, so that no eigenvector is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured

MEMORY = 2**31
"""Bytes that a basis may take by default."""

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Eigenpairs:
    """Ritz pairs of a symmetric operator, the wanted end first.

    Attributes: ``values`` [k] float64; ``vectors`` [P, k], orthonormal columns; ``residuals`` [k], ‖A u − θ u‖₂ as measured;
    ``converged`` [k], whether the residual met the tolerance; ``rounding``, the size of rounding errors in a value; ``products``
    spent; ``largest``, whether these are the algebraically largest (descending) or smallest (ascending).
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    converged: Tensor
    rounding: float
    products: int
    largest: bool

    def measured(self) -> list[Measured]:
        """[θ, θ + r] for the largest, [θ − r, θ] for the smallest, widened by rounding; indicators.

        By Cauchy's interlacing the i-th largest eigenvalue is at least the i-th largest Ritz value. The other end holds unless an
        eigenvalue was missed.
        """
        brackets = []
        for value, residual in zip(self.values.tolist(), self.residuals.tolist(), strict=True):
            low, high = (value, value + residual) if self.largest else (value - residual, value)
            brackets.append(Measured(low - self.rounding, high + self.rounding, Kind.INDICATOR))
        return brackets


def top_eigenpairs(
    operator: Any,
    k: int = 5,
    *,
    tolerance: float = 1e-3,
    most: int | None = None,
    seed: int | torch.Generator = 0,
    memory: int = MEMORY,
    checks: int | None = None,
    advance: Advance | None = None,
) -> Eigenpairs:
    """The k algebraically largest eigenvalues of ``operator`` with eigenvectors.

    Args:
        operator: symmetric, with ``shape`` (P, P), ``@`` on vectors [P]; a tensor will do.
        tolerance: a pair has converged when its residual is at most tolerance · |θ| (or the rounding of the products, if larger).
        most: products to spend at most, by default 40 + 20 k; what has not converged by then is returned and flagged.
        seed: of the random starting vectors.
        memory: bytes for the basis; when it is full, the search restarts from the best vectors.
        checks: products spent on looking for further copies of the eigenvalues after convergence; by default an eighth of those before,
            at least 4, or 2 where the operator proposes starts; 0 for none (then a multiple eigenvalue is found once).
        advance: called with 1 after every product.

    Raises InvalidInput for k outside 1 … P, a tolerance outside (0, 1), or products with NaN.
    """
    return _extreme(operator, k, tolerance, most, seed, memory, checks, advance, largest=True)


def bottom_eigenpairs(
    operator: Any,
    k: int = 5,
    *,
    tolerance: float = 1e-3,
    most: int | None = None,
    seed: int | torch.Generator = 0,
    memory: int = MEMORY,
    checks: int | None = None,
    advance: Advance | None = None,
) -> Eigenpairs:
    """The k algebraically smallest eigenvalues, ascending; arguments as `top_eigenpairs`.

    Those of a singular positive semidefinite matrix are zeros of high multiplicity, and are found only up to the flagged residuals.
    """
    return _extreme(operator, k, tolerance, most, seed, memory, checks, advance, largest=False)


class Basis:
    """Orthonormal vectors V (rows), some with known images: ``A V[done] = Vᵀ H[:, done]`` up to rounding.

    ``defect`` bounds what restarts have dropped from that equation.
    """

    def __init__(self, operator: Any, seed: int | torch.Generator, room: int, sign: float = 1.0) -> None:
        self.operator, self.sign, self.size = operator, sign, int(operator.shape[0])
        self.generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        self.room = min(room, self.size)
        self._rows = torch.empty(min(32, self.room), self.size, dtype=operator.dtype, device=operator.device)
        self.H = np.zeros((self.room + 1, self.room + 1))
        self.done: list[int] = []
        self.n, self.defect, self.products, self.scale = 0, 0.0, 0, 0.0
        self.epsilon = float(torch.finfo(operator.dtype).eps)
        self.proposes = sign > 0 and hasattr(operator, "start")

    @property
    def rows(self) -> Tensor:
        """The vectors [n, P]."""
        return self._rows[: self.n]

    def random(self) -> bool:
        """Append a random vector orthogonal to all before; False where there is no room for one."""
        while self.n < self.room:
            vector = torch.randn(self.size, generator=self.generator, dtype=torch.float64).to(self._rows)
            vector /= torch.linalg.vector_norm(vector)
            _, rest, length = self._orthogonal(vector)
            if length > 1e-3 * (1 - self.n / self.size) ** 0.5:
                self._append(rest)
                return True
        return False

    def promising(self) -> bool:
        """Append the start that the operator proposes, half of it random, orthogonal to all before; a random one without a proposal."""
        proposed = self.operator.start(self.generator) if self.proposes and self.n < self.room else None
        length = float(torch.linalg.vector_norm(proposed)) if proposed is not None else 0.0
        if proposed is None or not 0 < length < float("inf"):
            return self.random()
        vector = torch.randn(self.size, generator=self.generator).to(self._rows)
        vector = torch.add(vector / torch.linalg.vector_norm(vector), proposed.to(vector), alpha=1 / length)
        self._append(self._orthogonal(vector / torch.linalg.vector_norm(vector))[1])
        return True

    def multiply(self, column: int) -> bool:
        """Take the image of vector ``column``; append its direction outside the basis, or return False where there is none."""
        image = self.operator @ self._rows[column]
        if self.sign < 0:
            image = -image
        self.products += 1
        total = float(torch.linalg.vector_norm(image))
        if not np.isfinite(total):
            raise InvalidInput("a product with the operator holds NaN or infinity: the loss overflows at these weights")
        self.scale = max(self.scale, total)
        known, image = self._without_known(image, column)
        coefficients, rest, length = self._orthogonal(image)
        self.H[: self.n, column] = known + coefficients
        self.done.append(column)
        if length <= 10 * self.epsilon * self.scale or self.n >= self.size:
            return False
        self.H[self.n, column] = length
        self._append(rest)
        return True

    def ritz(self) -> Ritz:
        """Ritz values (descending), their coordinates by the vectors with images, and residuals."""
        H = self.H[: self.n, self.done]
        small = H[self.done]
        if np.abs(small - small.T).max(initial=0.0) > 4 * self.epsilon**0.5 * self.scale + self.defect:
            raise InvalidInput(
                "the operator is not symmetric: a part of the model has a backward pass of its own that autograd cannot "
                "differentiate correctly, or the data or the weights changed between products"
            )
        values, vectors = np.linalg.eigh((small + small.T) / 2)
        values, vectors = values[::-1], vectors[:, ::-1]
        errors = H @ vectors
        errors[self.done] -= vectors * values
        return Ritz(values, vectors, np.linalg.norm(errors, axis=0) + self.defect)

    def combined(self, coordinates: np.ndarray) -> Tensor:
        """Σ coordinates · vectors with images: [P, k]."""
        weights = torch.tensor(coordinates.copy(), device=self._rows.device)
        full = torch.zeros(self.n, weights.shape[1], dtype=torch.float64, device=self._rows.device)
        full[self.done] = weights
        return (full.mT.to(self._rows.dtype) @ self.rows).mT

    def restart(self, ritz: Ritz, keep: int) -> int:
        """Keep the best Ritz vectors and the vectors without an image; returns the place of the last of these."""
        open_ = [i for i in range(self.n) if i not in self.done]
        C = np.zeros((self.n, keep + len(open_)))
        C[self.done, :keep] = ritz.vectors[:, :keep]
        C[open_, range(keep, keep + len(open_))] = 1.0
        images = self.H[: self.n, self.done] @ ritz.vectors[:, :keep]
        small = C.T @ images
        self.defect += float(np.linalg.norm(images - C @ small, 2))
        weights = torch.as_tensor(C.T.copy(), device=self._rows.device).to(self._rows.dtype)
        for start in range(0, self.size, 1 << 16):
            part = self._rows[: self.n, start : start + (1 << 16)]
            self._rows[: len(weights), start : start + (1 << 16)] = weights @ part
        self.n, self.done = keep + len(open_), list(range(keep))
        self.H[:] = 0.0
        self.H[: self.n, :keep] = small
        return self.n - 1

    def _without_known(self, image: Tensor, column: int) -> tuple[np.ndarray, Tensor]:
        """Takes from an image its part along its own vector and those that symmetry predicts, so that one pass over the basis does."""
        expected = np.zeros(self.n)
        expected[self.done] = self.H[column, self.done]
        large = np.flatnonzero(np.abs(expected) > 1e-3 * self.scale)
        if len(large) > 3:  # after a restart: more axpys than a pass costs
            return np.zeros(self.n), image
        for row in large:
            image = torch.add(image, self._rows[row], alpha=-expected[row])
        known = np.zeros(self.n)
        known[large] = expected[large]
        known[column] += (own := float(self._rows[column] @ image))
        return known, torch.add(image, self._rows[column], alpha=-own)

    def _orthogonal(self, vector: Tensor) -> tuple[np.ndarray, Tensor, float]:
        """Coefficients by the basis, the unit vector outside it, and its length; a second pass where the first cancelled much."""
        coefficients = np.zeros(self.n)
        before = float(torch.linalg.vector_norm(vector))
        length, rest = before, vector
        for _ in range(3):
            if not self.n:
                break
            found = self.rows @ rest
            rest = torch.addmv(rest, self.rows.mT, found, alpha=-1)
            coefficients += found.double().cpu().numpy()
            length = float(torch.linalg.vector_norm(rest))
            if length > 0.5 * before or length <= 10 * self.epsilon * self.scale:
                break
            before = length
        return coefficients, rest / max(length, 1e-300), length

    def _append(self, vector: Tensor) -> None:
        if self.n == len(self._rows):
            more = torch.empty(min(self.room + 1, 2 * self.n) - self.n, self.size, dtype=vector.dtype, device=vector.device)
            self._rows = torch.cat([self._rows, more])
        self._rows[self.n] = vector
        self.n += 1


@dataclass(frozen=True)
class Ritz:
    """Ritz values (descending), coordinates (columns) and residuals."""

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray


def _extreme(
    operator: Any,
    k: int,
    tolerance: float,
    most: int | None,
    seed: int | torch.Generator,
    memory: int,
    checks: int | None,
    advance: Advance | None,
    largest: bool,
) -> Eigenpairs:
    size = checked_operator(operator)
    if not 1 <= k <= size:
        raise InvalidInput(f"k = {k} eigenvalues of a {size} × {size} matrix: k lies in 1 … {size}")
    if not 0 < tolerance < 1:
        raise InvalidInput(f"tolerance {tolerance!r}: it is relative to the eigenvalue, and lies strictly between 0 and 1")
    most = 40 + 20 * k if most is None else most
    room = max(2 * k + 12, int(memory // (size * torch.finfo(operator.dtype).bits // 8)))
    basis = Basis(operator, seed, min(room, most + 8), 1.0 if largest else -1.0)
    search = _Search(basis, k, tolerance, checks)
    while basis.products < most and search.step():
        if advance is not None:
            advance(1)
    ritz = basis.ritz()
    values, residuals = ritz.values[:k], ritz.residuals[:k]
    return Eigenpairs(
        torch.tensor(basis.sign * values),
        basis.combined(ritz.vectors[:, :k]),
        torch.tensor(residuals),
        torch.tensor(residuals <= search.allowed(values)),
        8 * basis.epsilon * basis.scale,
        basis.products,
        largest,
    )


class _Search:
    """One run: grow the basis until k pairs have converged and a fresh start brings nothing new."""

    def __init__(self, basis: Basis, k: int, tolerance: float, checks: int | None) -> None:
        self.basis, self.k, self.tolerance, self.checks = basis, k, tolerance, checks
        self.left: int | None = None  # products to go in the check under way
        self.before, self.fresh, self.settling = np.zeros(0), False, False
        basis.promising()
        self.next: int | None = 0

    def allowed(self, values: np.ndarray) -> np.ndarray:
        """Largest residual of a converged pair."""
        return np.maximum(self.tolerance * np.abs(values), 32 * self.basis.epsilon * self.basis.scale)

    def step(self) -> bool:
        """One product; False when done."""
        basis = self.basis
        if self.next is None:
            return False
        going = basis.multiply(self.next)
        if self.left is not None:
            self.left -= 1
        done = len(basis.done)
        if done == basis.size:
            return False
        ritz = None
        if done >= self.k and (done < 100 or done % 4 == 0 or not going or self.left == 0):
            ritz = basis.ritz()
            if self._finished(ritz):
                return False
        self._choose_next(going, ritz)
        return True

    def _finished(self, ritz: Ritz) -> bool:
        """Whether the pairs have converged and a check since then, as long as asked for, has left them alone."""
        values = ritz.values[: self.k]
        if not bool((ritz.residuals[: self.k] <= self.allowed(values)).all()):
            return False
        if self.checks == 0:
            return True
        found = self.left is not None and bool(np.any(values - self.before > self.allowed(values)))
        if found:  # this start has more to give: go on from it before the next one
            self.settling, self.before, self.left = True, values, self._share()
        elif self.left is None or (self.settling and self.left <= 0):
            self.settling, self.fresh, self.before, self.left = False, True, values, self._share()
        else:
            return self.left <= (-self._share() if self._rising(ritz).any() else 0)
        return False

    def _share(self) -> int:
        return self.checks or max(2 if self.basis.proposes else 4, len(self.basis.done) // 8)

    def _rising(self, ritz: Ritz) -> np.ndarray:
        """Which pairs after the first k may yet turn out to belong to them: by their residuals, a rule of thumb."""
        least, allowed = ritz.values[self.k - 1], self.allowed(ritz.values[self.k - 1])
        values, residuals = ritz.values[self.k :], ritz.residuals[self.k :]
        return (values + residuals > least + allowed) | (residuals > max(abs(least) / 4, allowed))

    def _choose_next(self, going: bool, ritz: Ritz | None) -> None:
        basis = self.basis
        full = basis.n >= basis.room and basis.room < basis.size
        if full:
            ritz = ritz or basis.ritz()
            place = basis.restart(ritz, min(len(basis.done) - 1, self.k + max(4, (basis.room - self.k) // 3)))
            going = going and place >= len(basis.done)
            ritz = None
        if (self.fresh and basis.promising()) or (going and self.left is not None and self.left > 0):
            self.next = basis.n - 1
        else:
            self.next = self._widest(ritz)
        self.fresh = False

    def _widest(self, ritz: Ritz | None) -> int | None:
        """The vector without an image that carries most of the wanted pairs' residuals; a random one where there is none."""
        basis = self.basis
        open_ = [i for i in range(basis.n) if i not in basis.done]
        if not open_:
            return basis.n - 1 if basis.promising() else None
        if len(open_) == 1:
            return open_[0]
        ritz = ritz or basis.ritz()
        wide = ritz.residuals > self.allowed(ritz.values)
        wide[self.k :] &= self._rising(ritz)
        carried = basis.H[np.ix_(open_, basis.done)] @ ritz.vectors[:, wide]
        return open_[int(np.argmax(np.linalg.norm(carried, axis=1)))]


def checked_operator(operator: Any) -> int:
    """P of a [P, P] operator; raises InvalidInput for anything else."""
    shape = tuple(getattr(operator, "shape", ()))
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 1 or not hasattr(operator, "__matmul__"):
        raise InvalidInput(f"an operator is square, with .shape and @; got {type(operator).__name__} of shape {shape}")
    if operator.dtype not in (torch.float32, torch.float64):
        raise InvalidInput(f"an operator of dtype {operator.dtype}: float32 or float64 is needed")
    return int(shape[0])
