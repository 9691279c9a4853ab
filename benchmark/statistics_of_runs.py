"""Statistics over runs, those of Agarwal et al. 2021 (arXiv 2108.13264) and equal to rliable's: interquartile means,
probabilities of improvement, performance profiles, and 95 % percentile intervals of a bootstrap stratified by variant and task.

Each takes runs in the last axis and is vectorised over the others, which hold resamples. Runs come from pandas frames:
evaluations with a row a run, and curves with up to 50 rows a run.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean (..., runs) -> (...): without the lowest and the highest quarter, floor(runs / 4) each."""
    return stats.trim_mean(scores, 0.25, axis=-1)


def improvement(*samples: np.ndarray) -> np.ndarray:
    """P(X > Y) + P(X = Y) / 2 of X_1 (..., n), Y_1 (..., m), X_2, Y_2, ... of several tasks, averaged over them."""
    pairs = [(x[..., :, None], y[..., None, :]) for x, y in zip(samples[::2], samples[1::2], strict=True)]
    return np.mean([((x > y) + 0.5 * (x == y)).mean((-2, -1)) for x, y in pairs], axis=0)


def effect(*samples: np.ndarray) -> np.ndarray:
    """IQM of X_1 (..., n) less that of Y_1 (..., m), of X_2 less that of Y_2, ...: the mean of these differences."""
    return np.mean([iqm(x) - iqm(y) for x, y in zip(samples[::2], samples[1::2], strict=True)], axis=0)


def profile(taus: np.ndarray, *samples: np.ndarray) -> np.ndarray:
    """Performance profile of X_1 (..., n), X_2 (..., m), ... of several tasks -> (taus, ...): the share of a task's runs
    with a score above tau, averaged over tasks, each of which counts alike."""
    return np.mean([(x > taus.reshape(-1, *[1] * x.ndim)).mean(-1) for x in samples], axis=0)


def bootstrap(statistic: Callable, *samples: np.ndarray, resamples: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile interval; each sample (runs,) is a stratum, so it is resampled on its own. A single run has none."""
    if min(map(len, samples)) == 1:
        return (statistic(*samples),) * 2
    options = dict(n_resamples=resamples, vectorized=True, method="percentile", rng=0)  # the same interval every time
    interval = stats.bootstrap(samples, lambda *x, axis: statistic(*x), **options).confidence_interval
    return interval.low, interval.high


def differ(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether the interval of the difference of IQMs excludes 0 by more than 2 % of its width: that is over twice the
    standard error of its ends with so many resamples, 0.4 to 0.9 %."""
    low, high = bootstrap(effect, x, y)
    return bool(max(low, -high) > 0.02 * (high - low))


def apart(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether the intervals of the two IQMs do not overlap."""
    (low, high), (other_low, other_high) = bootstrap(iqm, x), bootstrap(iqm, y)
    return bool(low > other_high or high < other_low)


def scores(rows: pd.DataFrame, variant: str, measure: str) -> np.ndarray:
    """That measure of each of the variant's runs: (runs,)."""
    return rows.loc[rows["variant"] == variant, measure].dropna().to_numpy()


def late(curves: pd.DataFrame, variant: str, column: str) -> np.ndarray:
    """That column's mean over the last tenth of training, of each of the variant's runs: (runs,)."""
    step = curves["global_step"]
    rows = curves[(curves["variant"] == variant) & (step > 0.9 * step.max())]
    return rows.groupby("seed", sort=False)[column].mean().dropna().to_numpy()


def landed(rows: pd.DataFrame, variant: str) -> np.ndarray:
    """Per cent of each run's evaluation episodes with a return of at least 200, which solves LunarLander: (runs,)."""
    returns = rows.loc[rows["variant"] == variant, "returns"].str.split(";")
    return np.array([100 * (np.array(x, float) >= 200).mean() for x in returns])
