"""What is kept of a Fisher matrix: all of it, its diagonal, Kronecker factors."""

import numpy as np

from ..errors import InputError
from ..fisher import DenseFisher, DiagonalFisher, KroneckerFisher, LayeredFisher
from ..scalars import as_choice, as_generator, as_number
from .metric import FISHERS, add_scores, checked_operands, fisher_metric, labelled

__all__ = ["STRUCTURES", "structured_metric"]

STRUCTURES = ("full", "layered", "diagonal", "kfac", "ekfac")


def structured_metric(
    model,
    theta,
    X,
    y=None,
    *,
    structure="full",
    fisher="exact",
    rng=None,
    labels=1,
    running=None,
    decay=1.0,
):
    """The Fisher matrix of `model` at `theta`, or what a method keeps of it.

    =============  ===============================================  ============================
    ``structure``  kept of F                                        object
    =============  ===============================================  ============================
    full           everything                                       `fisher_metric`'s
    layered        everything; the scores are never formed          `LayeredFisher`
    diagonal       the mean of squares of each parameter            `DiagonalFisher`
    kfac           a Kronecker product per layer                    `KroneckerFisher`
    ekfac          the same, with second moments in its eigenbasis  `KroneckerFisher`, corrected
    =============  ===============================================  ============================

    Parameters
    ----------
    model : object
        As for `fisher_metric`; "layered", "kfac" and "ekfac" also need ``layers(theta, X, y)``,
        the inputs and output gradients of each layer, as `fastfisher.models.MLP` has.
    theta, X, y, fisher, rng, labels
        As for `fisher_metric`.
    structure : {"full", "layered", "diagonal", "kfac", "ekfac"}
    running : Fisher object, optional
        What an earlier call returned: it takes in the new rows, in place, and is returned.
        ``layered`` keeps its rows and cannot run.
    decay : float in (0, 1]
        Multiplies what `running` has seen before the new rows are added (U3).

    Returns
    -------
    Fisher object

    Raises
    ------
    InputError
        Unknown names, no rows, or a model without layers.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfisher.models import SoftmaxRegression
    >>> X = np.array([[-1.0], [0.5], [2.0]])
    >>> F = structured_metric(SoftmaxRegression(1, 2), np.zeros(4), X, structure="diagonal")
    >>> F.diagonal()
    array([0.4375, 0.25  , 0.4375, 0.25  ])
    """
    check_structure(structure, fisher, decay)
    if structure == "full" and running is None and decay == 1.0:
        return fisher_metric(model, theta, X, y, fisher=fisher, rng=rng, labels=labels)
    theta, X, y = checked_operands(theta, X, y, labels)
    rng = as_generator(rng)
    if structure in ("full", "diagonal"):
        kind = DenseFisher if structure == "full" else DiagonalFisher
        metric = running or kind(len(theta), dtype=np.asarray(theta).dtype, kind=fisher)
        return add_scores(metric, model, theta, X, y, fisher, rng, labels, decay)
    if not hasattr(model, "layers"):
        raise InputError(
            f"{type(model).__name__} has no layers, which structure={structure!r} is made of; "
            "use 'full' or 'diagonal'"
        )
    layers, weights = _layers(model, theta, X, y, fisher, rng, labels)
    if structure == "layered":
        return LayeredFisher(dtype=layers[0][1].dtype, kind=fisher).update(layers, weights)
    if running is None:
        running = KroneckerFisher(
            [(A.shape[1], E.shape[1]) for A, E in layers],
            corrected=structure == "ekfac",
            dtype=layers[0][1].dtype,
            kind=fisher,
        )
    return running.update(layers, weights, decay=decay if running.weight else 1.0)


def check_structure(structure, fisher, decay):
    """Refuse names and values that do not exist, and what does not go together."""
    as_choice(structure, "structure", STRUCTURES)
    as_choice(fisher, "fisher", FISHERS)
    if not 0 < as_number(decay, "decay") <= 1:
        raise InputError(f"decay is {decay!r}, expected a number in (0, 1]")
    if structure == "layered" and decay != 1:
        raise InputError("structure='layered' keeps its rows and cannot fade; use decay=1")


def _layers(model, theta, X, y, fisher, rng, labels):
    """(layers, weights) whose Kronecker products are the rows of F."""
    if fisher == "exact":
        return model.exact_layers(theta, X)
    return model.layers(theta, *labelled(model, theta, X, y, fisher, rng, labels)), None
