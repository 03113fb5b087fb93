"""Statistics of maximum-likelihood estimates: what the Fisher information is for.

`covariance` from scores and information (OPG, information, sandwich with clusters or lags), Wald,
score and likelihood-ratio tests, intervals, the Cramer-Rao bound, Jeffreys' prior and description
lengths. `infer` does it for a model of `fastfisher.models` and answers a `Results`.

Information is that of the whole sample here, a sum: ``weight * matrix()`` of a Fisher object.
"""

from .covariances import covariance, from_information, meat, opg, sandwich, standard_errors
from .description import JeffreysPrior, fia, fia_penalty, jeffreys, jeffreys_volume, nml_complexity
from .hypotheses import (
    HypothesisTest,
    confidence_intervals,
    cramer_rao,
    likelihood_ratio_test,
    score_test,
    score_test_opg,
    wald_test,
)
from .results import Results, infer, observed_information

__all__ = [
    "HypothesisTest",
    "JeffreysPrior",
    "Results",
    "confidence_intervals",
    "covariance",
    "cramer_rao",
    "fia",
    "fia_penalty",
    "from_information",
    "infer",
    "jeffreys",
    "jeffreys_volume",
    "likelihood_ratio_test",
    "meat",
    "nml_complexity",
    "observed_information",
    "opg",
    "sandwich",
    "score_test",
    "score_test_opg",
    "standard_errors",
    "wald_test",
]
