"""The categorical distribution in its logits: the output of every classifier here."""

import numpy as np

__all__ = ["kl_divergence", "log_softmax", "sample"]


def log_softmax(logits):
    """log p of softmax probabilities along the last axis.

    The largest logit is subtracted first, so p reaches exactly 0 and exactly 1 and log p is never
    NaN for finite logits (docs/math.md, G2).
    """
    with np.errstate(over="ignore"):
        shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def kl_divergence(log_p, log_q):
    """KL(p || q) along the last axis from log-probabilities; inf where q = 0 < p.

    Near p = q the textbook sum of p log(p/q) loses half of the digits, because its terms of first
    order cancel. They are left out here: with t = log(q/p), KL = sum p (e^t - 1 - t), whose terms
    are all >= 0.
    """
    p = np.exp(log_p)
    with np.errstate(invalid="ignore", over="ignore"):
        t = log_q - log_p
        near = p * (np.expm1(t) - t)
        far = np.exp(log_q) - p - p * t
    terms = np.where(np.abs(t) < 1, near, far)
    return np.where(p > 0, terms, np.exp(log_q)).sum(axis=-1)


def sample(log_p, rng):
    """One label per row of log-probabilities, by inversion of the cumulative sum."""
    cumulative = np.exp(log_p, dtype=np.float64).cumsum(axis=-1)
    u = rng.random(len(log_p)) * cumulative[:, -1]
    # `<=` keeps classes of probability zero out: u never falls on an empty interval.
    return (cumulative <= u[:, None]).sum(axis=-1)
