"""The plane in which a training run moved most: principal components of its checkpoints, read one tensor at a time.

For checkpoints θ_0 … θ_T, the principal axes of the differences θ_t − θ_T (Li et al. 2018, section on optimization trajectories).  The
Gram matrix of the differences is T × T and is summed tensor by tensor, so memory holds one tensor of all checkpoints, never all of them.

**A large share proves little.**  A random walk in high dimension, seen from its last point, has its differences' covariance spread as
the eigenvalues of min(s, t), proportional to 1/(k − ½)²: the first two axes hold 90.06 % of it (8/π² and 8/9π²) though it never turned
(Antognini and Sohl-Dickstein 2018, PCA of high dimensional random walks with comparison to neural network training, for the walk seen from
its mean).  `RANDOM_WALK_SHARES` is what to compare with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.directions import Direction, trainable
from nonvacuous.optimization.slices_restored import restored
from nonvacuous.runtime.weights import load_weights

RANDOM_WALK_SHARES = (8 / math.pi**2, 8 / (9 * math.pi**2))
"""Shares of the first two axes for a long random walk of many dimensions, seen from its end."""

_CHUNK = 1 << 22


@dataclass(frozen=True, eq=False)
class PathPlane:
    """``directions``: two, of unit length; ``coordinates`` ``[T + 1, 2]`` of the checkpoints, the last one at 0; ``shares``: of
    Σ‖θ_t − θ_T‖² along each; ``distances`` ``[T + 1]``: ‖θ_t − θ_T‖ in full space.
    """

    directions: tuple[Direction, Direction]
    coordinates: Tensor
    shares: tuple[float, float]
    distances: Tensor


Reader = Callable[[str], Tensor]


def path_plane(model: nn.Module, checkpoints: Sequence[Path | str | Mapping[str, Tensor]]) -> PathPlane:
    """The plane of largest movement of ``checkpoints`` (files of weights, or state dicts), in the order of training.

    The model gives names and shapes, and reads what is not a safetensors file; it is left as it was.  Its own weights should be those of
    the last checkpoint where the plane is drawn around it.  Buffers do not count.

    :raises InvalidInput: fewer than three checkpoints, of other shapes, not finite, or all in one point or on one line.
    """
    if len(checkpoints) < 3:
        raise InvalidInput(f"{len(checkpoints)} checkpoints span no plane; a training path needs three or more")
    shapes = {name: tuple(x.shape) for name, x in trainable(model).items()}
    with ExitStack() as stack:
        readers = [stack.enter_context(_reader(model, checkpoint)) for checkpoint in checkpoints]
        gram = torch.zeros(len(readers), len(readers), dtype=torch.float64)
        for _, _, rows in _differences(readers, shapes):
            gram += rows @ rows.T
        axes, values, total = _axes(gram)
        parts: list[dict[str, list[Tensor]]] = [{}, {}]
        for name, _, rows in _differences(readers, shapes):
            for k in range(2):
                parts[k].setdefault(name, []).append((axes[:, k] / values[k].sqrt()) @ rows)
    own = trainable(model)
    directions = [
        Direction(
            f"principal axis {k + 1}",
            {name: torch.cat(rows).reshape(shapes[name]).to(own[name]) for name, rows in part.items()},
        )
        for k, part in enumerate(parts)
    ]
    coordinates = axes[:, :2] * values[:2].sqrt()
    shares = (float(values[0]) / total, float(values[1]) / total)
    return PathPlane((directions[0], directions[1]), coordinates, shares, gram.diagonal().clamp(min=0).sqrt())


def _axes(gram: Tensor) -> tuple[Tensor, Tensor, float]:
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0), vectors.flip(1)
    total = float(gram.trace())
    if not total > 0:
        raise InvalidInput("all checkpoints are equal: the path is one point. Save checkpoints while training goes on")
    if not float(values[1]) > 1e-12 * total:
        raise InvalidInput(
            "the checkpoints lie on one line, which spans no plane. Draw the line between the first and the last instead"
        )
    signs = torch.where(
        vectors[0] < 0, -1.0, 1.0
    ).double()  # the start lies at positive coordinates, whatever the solver's sign
    return vectors * signs, values, total


def _differences(readers: Sequence[Reader], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, int, Tensor]]:
    """Parameter by parameter, and piece by piece of a large one: rows ``[T + 1, m]`` of θ_t − θ_T in float64."""
    for name, shape in shapes.items():
        flat = [reader(name) for reader in readers]
        for place, x in enumerate(flat):
            if tuple(x.shape) != shape:
                raise InvalidInput(
                    f"checkpoint {place} has {name} {tuple(x.shape)}, the model {shape}. Name the model they were saved from"
                )
            if not bool(torch.isfinite(x).all()):
                raise InvalidInput(f"checkpoint {place} holds NaN or infinite numbers ({name}). Leave it out")
        size = flat[0].numel()
        step = max(1, _CHUNK // len(flat))
        for start in range(0, size, step):
            rows = torch.stack([x.reshape(-1)[start : start + step].double() for x in flat])
            yield name, start, rows - rows[-1]


@contextmanager
def _reader(model: nn.Module, checkpoint: Path | str | Mapping[str, Tensor]) -> Iterator[Reader]:
    """Reads one tensor at a time by name."""
    if isinstance(checkpoint, Mapping):
        yield lambda name: _entry(checkpoint, name, "a state dict").detach().cpu()
        return
    path = Path(checkpoint)
    if path.suffix != ".safetensors":
        state = _loaded(model, path)
        yield lambda name: state[name]
        return
    if not path.is_file():
        raise InvalidInput(f"weights file {path} does not exist. Check the path")
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())

            def read(name: str) -> Tensor:
                if name not in names:
                    raise InvalidInput(f"{path} has no {name}: it was saved from another model, or does not hold it all")
                return file.get_tensor(name)

            yield read
    except SafetensorError as error:
        raise InvalidInput(f"{path} is not a readable safetensors file ({error}). Save the weights again") from error


def _entry(state: Mapping[str, Tensor], name: str, what: str) -> Tensor:
    if name not in state:
        raise InvalidInput(f"{what} has no {name}: it was saved from another model, or does not hold it all")
    return state[name]


def _loaded(model: nn.Module, path: Path) -> dict[str, Tensor]:
    """The parameters in a file of any kind that `load_weights` reads, by way of the model, which gets its own back."""
    with restored(model):
        load_weights(model, path)
        return {name: x.cpu().clone() for name, x in trainable(model).items()}
