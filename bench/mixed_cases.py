"""Scores with known spectra, and of a network trained on digits, for `bench.mixed`."""

import numpy as np

__all__ = ["DIGITS", "DUAL", "SHARES", "SPECTRA", "right_side", "scores", "size_of", "spectrum"]

SPECTRA = ("power", "exponential", "clustered", "deficient", "heavy", "digits", "dual")
SHARES = (1e-2, 1e-4, 1e-6, 1e-8, 1e-10)
SEED = 7
COLUMNS, ROWS = 2048, 32  # of wide scores, worked on at a time
HIDDEN, STEPS = 27, 40  # of the network on digits, and of its training
DIGITS = (17970, 2035)  # a row for each image and class, a column for each weight
DUAL = (4000, 200_000)  # where no size with fewer samples than parameters is asked for


def spectrum(kind, p, rng):
    """Eigenvalues, the largest 1."""
    k = np.arange(1, p + 1)
    if kind in ("power", "heavy"):
        return 1.0 / k
    if kind == "exponential":
        return 10.0 ** np.linspace(0, -6, p)
    if kind == "clustered":
        return np.where(k <= p // 20, 1.0, 1e-4 * rng.uniform(0.5, 2, p))
    return np.where(k <= p // 2, 1.0 / k, 0.0)


def size_of(kind, n, p):
    """The size that scores of this kind have where (n, p) is asked for."""
    if kind == "dual":
        return (n, p) if n < p else DUAL
    return DIGITS if kind == "digits" else (n, p)


def scores(n, p, kind):
    """Scores and a right-hand side, or for "dual" coefficients of one: a spectrum in a basis that
    is no axis; "heavy": rows of Student's t(3); "digits": see `digits`."""
    rng = np.random.default_rng(SEED)
    if kind == "digits":
        G = digits()
        return G, rng.standard_normal(G.shape[1])
    if kind == "dual":
        return _wide(n, p, rng), rng.standard_normal(n)
    from scipy.fft import dct

    X = rng.standard_normal((n, p))
    X *= np.sqrt(spectrum(kind, p, rng))
    if kind == "heavy":
        X *= np.sqrt(3 / rng.chisquare(3, n))[:, np.newaxis]
    for _ in range(2):
        X *= rng.choice([-1.0, 1.0], p)
        X = dct(X, axis=1, norm="ortho", overwrite_x=True)
    return np.ascontiguousarray(X), rng.standard_normal(p)


def _wide(n, p, rng):
    """Power law among the samples, turned a few columns at a time: no copy of that size."""
    from scipy.fft import dct

    X = rng.standard_normal((n, p))
    X *= np.sqrt(spectrum("power", n, rng))[:, np.newaxis]
    flips = rng.choice([-1.0, 1.0], (2, n, 1))
    for lo in range(0, p, COLUMNS):
        part = X[:, lo : lo + COLUMNS]
        for flip in flips:
            part[:] = dct(part * flip, axis=0, norm="ortho", overwrite_x=True)
    return X


def right_side(G, given):
    """b in extended precision, of what `scores` gave: G'c / n where those are coefficients c."""
    if len(given) == G.shape[1]:
        return given.astype(np.longdouble)
    c, b = given.astype(np.longdouble), np.zeros(G.shape[1], np.longdouble)
    for lo in range(0, len(G), ROWS):
        b += c[lo : lo + ROWS] @ G[lo : lo + ROWS].astype(np.longdouble)
    return b / len(G)


def digits():
    """Scores whose mean product is the exact Fisher of a network on scikit-learn's digits, after
    some steps of KFAC: columns of dead pixels, rows of sure classes, eigenvalues over decades."""
    from sklearn import datasets

    import fastfisher as ff

    X, y = datasets.load_digits(return_X_y=True)
    X = X / 16.0
    model = ff.models.MLP((64, HIDDEN, 10), l2=1e-4)
    kfac = ff.optim.NaturalGradient(damping=ff.LevenbergMarquardt(1.0), structure="kfac")
    fit = ff.optim.minimize(model, X, y, optimizer=kfac, iterations=STEPS, rng=SEED)
    rows, weights = model.exact_scores(fit.theta, X)
    return rows * np.sqrt(weights)[:, np.newaxis]
