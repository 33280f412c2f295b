# SPDX-License-Identifier: Apache-2.0
"""Interquartile mean, stratified bootstrap and probability of improvement.

After Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
NeurIPS 2021. Written out, since they are a few lines of numpy; the package of that paper, rliable,
brings arch, pandas, seaborn and statsmodels for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
RESAMPLES = 2000
CONFIDENCE = 0.95


def interquartile_mean(scores: Scores) -> Scores:
    """Mean over the last axis [..., n] without its lowest and highest quarter.

    From each side floor(n / 4) scores are left out, so that with up to three it is the mean.
    """
    n = scores.shape[-1]
    cut = n // 4
    return np.asarray(np.sort(scores, axis=-1)[..., cut : n - cut].mean(axis=-1))


def probability_of_improvement(x: Sequence[Scores], y: Sequence[Scores]) -> Scores:
    """Probability that a run of X beats one of Y in the same task, as the mean over tasks.

    Args:
        x: for each task the scores [..., n] of X.
        y: for each task the scores [..., m] of Y; the leading axes are those of ``x``.
    """
    tasks = []
    for a, b in zip(x, y, strict=True):
        difference = a[..., :, None] - b[..., None, :]
        tasks.append(np.mean((difference > 0) + 0.5 * (difference == 0), axis=(-2, -1)))
    return np.asarray(np.mean(tasks, axis=0))


def resample(strata: Sequence[Scores], rng: np.random.Generator) -> list[Scores]:
    """Draw each stratum [n] with replacement: a list of [RESAMPLES, n].

    Seeds are drawn within their task and never across: tasks are fixed, seeds are chance.
    """
    return [s[rng.integers(0, len(s), (RESAMPLES, len(s)))] for s in strata]


def interval(values: Scores) -> tuple[float, float]:
    """Ends of the central ``CONFIDENCE`` of bootstrapped values [RESAMPLES]."""
    tail = 50.0 * (1.0 - CONFIDENCE)
    low, high = np.percentile(values, [tail, 100.0 - tail])
    return float(low), float(high)


def estimate(
    strata: Sequence[Scores], seed: int = 0, statistic: Callable[[Scores], Scores] | None = None
) -> tuple[float, float, float]:
    """A statistic (default: IQM) of all scores together and its bootstrap interval.

    Args:
        strata: for each task the scores [n].
        seed: of the resampling; the same scores give the same interval.
        statistic: from scores [..., n] to [...].
    """
    of = statistic or interquartile_mean
    draws = resample(strata, np.random.default_rng(seed))
    low, high = interval(of(np.concatenate(draws, axis=-1)))
    return float(of(np.concatenate(strata))), low, high


def improvement(
    x: Sequence[Scores], y: Sequence[Scores], seed: int = 0
) -> tuple[float, float, float]:
    """Probability of improvement of X over Y and its bootstrap interval; arguments as there."""
    rng = np.random.default_rng(seed)
    low, high = interval(probability_of_improvement(resample(x, rng), resample(y, rng)))
    return float(probability_of_improvement(x, y)), low, high
