"""The tissue of voxels: priors, ranges, fraction laws, and the tissue table."""

from corrsk.tissue.fractions import FRACTION_LAWS
from corrsk.tissue.lobes import Lobe, LobePrior
from corrsk.tissue.nuisances import Nuisances
from corrsk.tissue.prior import TissuePrior, resolve_prior
from corrsk.tissue.ranges import PropertyRange

__all__ = [
    "FRACTION_LAWS",
    "Lobe",
    "LobePrior",
    "Nuisances",
    "PropertyRange",
    "TissuePrior",
    "resolve_prior",
]
