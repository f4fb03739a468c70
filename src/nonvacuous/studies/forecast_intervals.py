"""Prediction intervals around forecasts, by MAPIE: conformal ones, whose guarantee a series voids, and ones that adapt as it goes on.

Split conformal intervals cover with the probability asked for if calibration and new examples are exchangeable (Vovk, Gammerman and Shafer
2005). Windows of a series are not: the coverage that is measured is an indicator. What can be certified of them is their rate of misses
in the long run, by the blocks of a stationary series that forgets: audit the model with the loss ``missed(intervals.half_width)``.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from torch import Tensor

from nonvacuous.core.certificate import Indicator
from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures.predictor import as_predictor, evaluating
from nonvacuous.runtime.data import ArraySample, Sample
from nonvacuous.runtime.tasks import progress_bar

Floats = np.ndarray

EXCHANGEABLE = "its guarantee needs calibration and new examples to be exchangeable, and windows of a series are not"
ADAPTIVE = "long-run coverage of a rule that keeps learning from the errors it is told, and says nothing of any one interval"


@dataclass(frozen=True)
class Intervals:
    """Intervals for the held-out targets, in their order.

    Attributes: ``lower``, ``upper`` [m] (infinite where the rule says "anything"), ``targets`` [m]; ``asked`` the coverage that was asked
    for; ``method``; ``reason`` why the coverage measured is no certificate; ``half_width`` where all intervals are of one width, else None.
    """

    lower: Floats
    upper: Floats
    targets: Floats
    asked: float
    method: str
    reason: str
    half_width: float | None = None

    @property
    def missed(self) -> Floats:
        """Whether each target lies outside [m]."""
        return (self.targets < self.lower) | (self.targets > self.upper)

    @property
    def coverage(self) -> float:
        """Share of the targets inside."""
        return 1.0 - float(self.missed.mean())

    @property
    def indicator(self) -> Indicator:
        """The coverage measured, which promises nothing."""
        return Indicator(f"{self.method}_coverage", self.coverage, self.coverage, self.reason, "share")


class Forecaster(RegressorMixin, BaseEstimator):
    """A trained model under scikit-learn's interface: ``predict`` of inputs [n, …] gives [n]."""

    def __init__(self, model: Any, device: str = "cpu") -> None:
        self.model = model
        self.device = device

    is_fitted = True

    def fit(self, inputs: Any, targets: Any) -> Forecaster:
        """Nothing: the model is trained."""
        return self

    def predict(self, inputs: Any) -> Floats:
        """Forecasts [n]."""
        predictor = as_predictor(self.model, self.device)
        with evaluating(predictor):
            outputs = predictor(torch.as_tensor(np.asarray(inputs), dtype=torch.float32)).cpu()
        return outputs.double().reshape(len(outputs), -1)[:, 0].numpy()


def calibration_split(stretch: Sample, share: float = 0.4) -> tuple[Sample, Sample]:
    """The training stretch of a series, cut once more by time: windows to fit on, and the last ``share`` of them to calibrate with.

    Windows that read observations of both parts are left out. Raises :class:`InvalidInput` for a share outside (0, 1) or an empty part.
    """
    if not 0 < share < 1:
        raise InvalidInput(f"share lies strictly between 0 and 1; got {share!r:.60}")
    span = stretch.windows.span if stretch.windows is not None else 1
    count = round(share * stretch.n)
    kept = stretch.n - count - (span - 1)
    if kept < 1 or count < 1:
        raise InvalidInput(
            f"{stretch.n} windows of {span} observations cannot be cut into a part to fit on and {share:g} to calibrate with: give more"
        )
    order = torch.arange(stretch.n)
    return stretch.subset(order[:kept], "the fitting sample"), stretch.subset(
        order[stretch.n - count :], "the calibration sample"
    )


def split_conformal(model: Any, calibration: Sample, held_out: Sample, *, coverage: float = 0.9) -> Intervals:
    """ŷ ± the ⌈(n + 1)·coverage⌉-th smallest error of the n calibration windows: one width for all, fixed before the held-out stretch.

    Needs the extra ``conformal`` (MAPIE's ``SplitConformalRegressor``). Raises :class:`InvalidInput` without it, for a coverage outside
    (0, 1), samples that are no regression arrays, and too few calibration windows for the coverage.
    """
    from_mapie = _mapie()
    inputs, targets, new, truth = _checked(calibration, held_out, coverage)
    least = ceil(max(1 / coverage, 1 / (1 - coverage)))
    if len(targets) < least:
        raise InvalidInput(f"coverage {coverage:g} needs at least {least} calibration windows; there are {len(targets)}")
    fitted = from_mapie.SplitConformalRegressor(Forecaster(model), confidence_level=coverage, prefit=True)
    fitted.conformalize(inputs, targets)
    centre, ends = fitted.predict_interval(new)
    half = float(np.max(ends[:, 1, 0] - centre))
    return Intervals(ends[:, 0, 0], ends[:, 1, 0], truth, coverage, "split_conformal", EXCHANGEABLE, half)


def adaptive_conformal(
    model: Any, calibration: Sample, held_out: Sample, *, coverage: float = 0.9, rate: float = 0.02, progress: bool = False
) -> Intervals:
    """Adaptive conformal inference: each value moves the level by ``rate``·(allowed misses − miss), and its error joins the scores.

    Gibbs and Candès (2021, Proposition 4.1) bound the share of misses in the long run whatever the series does, for a level that may leave
    [0, 1]; MAPIE's stays inside, so the coverage is measured, not proved. Needs the extra ``conformal`` (its ``TimeSeriesRegressor``).

    Raises :class:`InvalidInput` as :func:`split_conformal` does, and for a rate outside (0, 1).
    """
    from_mapie = _mapie()
    inputs, targets, new, truth = _checked(calibration, held_out, coverage)
    if not 0 < rate < 1:
        raise InvalidInput(f"rate lies strictly between 0 and 1; got {rate!r:.60}")
    fitted = from_mapie.TimeSeriesRegressor(Forecaster(model), method="aci", cv="prefit")
    fitted.fit(inputs, targets)
    ends = np.empty((len(truth), 2))
    with progress_bar(progress) as bar, bar.task("adapting intervals", len(truth)) as advance:
        for t in range(len(truth)):
            here, value = new[t : t + 1], truth[t : t + 1]
            _, found = fitted.predict(here, confidence_level=coverage, allow_infinite_bounds=True)
            ends[t] = found[0, :, 0]
            fitted.adapt_conformal_inference(here, value, gamma=rate, confidence_level=coverage)
            with warnings.catch_warnings():  # it says at every step that other arguments than these two have no effect
                warnings.simplefilter("ignore", UserWarning)
                fitted.update(here, value)
            advance(1)
    return Intervals(ends[:, 0], ends[:, 1], truth, coverage, "adaptive_conformal", ADAPTIVE)


def _mapie() -> Any:
    try:
        import mapie.regression
    except ImportError as error:
        raise InvalidInput("prediction intervals need MAPIE. Install it: pip install 'nonvacuous[conformal]'") from error
    return mapie.regression


def _checked(calibration: Sample, held_out: Sample, coverage: float) -> tuple[Floats, Floats, Floats, Floats]:
    if not 0 < coverage < 1:
        raise InvalidInput(f"coverage lies strictly between 0 and 1; got {coverage!r:.60}")
    return (*_arrays(calibration), *_arrays(held_out))


def _arrays(sample: Sample) -> tuple[Floats, Floats]:
    if not (isinstance(sample, ArraySample) and sample.regression and isinstance(sample.inputs, Tensor)):
        raise InvalidInput(
            f"{sample.name}: intervals are for arrays of inputs and numbers to forecast (windows(…, regression=True))"
        )
    return sample.inputs.numpy(), sample.targets.double().numpy()
