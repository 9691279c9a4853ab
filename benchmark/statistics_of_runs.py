"""Statistics over runs, as of Agarwal et al. 2021 (arXiv 2108.13264), with runs in the last axis and resamples before."""

from collections.abc import Callable

import numpy as np
from scipy import stats


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean: without the lowest and the highest quarter, floor(runs / 4) each."""
    return stats.trim_mean(scores, 0.25, axis=-1)


def improvement(*samples: np.ndarray) -> np.ndarray:
    """P(X > Y) + P(X = Y) / 2 of X_1, Y_1, X_2, Y_2, ... of several tasks, averaged over them."""
    shares = []
    for x, y in zip(samples[::2], samples[1::2], strict=True):
        x, y = x[..., :, None], y[..., None, :]
        shares.append(((x > y) + 0.5 * (x == y)).mean((-2, -1)))
    return np.mean(shares, axis=0)


def effect(*samples: np.ndarray) -> np.ndarray:
    """The mean of the differences of IQMs, of X_1 from Y_1, of X_2 from Y_2, ..."""
    return np.mean([iqm(x) - iqm(y) for x, y in zip(samples[::2], samples[1::2], strict=True)], axis=0)


def gain(x: np.ndarray, base: np.ndarray) -> np.ndarray:
    """What the IQM of x adds to the IQM of base, in per cent of it."""
    return 100 * (iqm(x) / iqm(base) - 1)


def share(x: np.ndarray, between: np.ndarray, base: np.ndarray) -> np.ndarray:
    """The part of the gain of x over base that x has over `between`."""
    return (iqm(x) - iqm(between)) / (iqm(x) - iqm(base))


def resampled(statistic: Callable, *samples: np.ndarray, resamples: int = 10_000):
    """scipy's bootstrap; each sample (runs,) is resampled on its own, and the same way every time."""
    options = dict(n_resamples=resamples, vectorized=True, method="percentile", rng=0)
    return stats.bootstrap(samples, lambda *x, axis: statistic(*x), **options)


def bootstrap(statistic: Callable, *samples: np.ndarray, resamples: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile interval. A single run has none."""
    if min(map(len, samples)) == 1:
        return (statistic(*samples),) * 2
    return tuple(resampled(statistic, *samples, resamples=resamples).confidence_interval)


def differ(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether the IQMs' difference excludes 0 by over 2 % of its interval, twice the standard error of an end."""
    low, high = bootstrap(effect, x, y)
    return bool(max(low, -high) > 0.02 * (high - low))


def detectable(x: np.ndarray, y: np.ndarray) -> float:
    """The difference of IQMs that so many runs, scattered like these, show at the 5 % level with 80 % power."""
    return (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * resampled(effect, x, y).standard_error
