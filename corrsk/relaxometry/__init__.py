"""Model-based counting of compartments, without learning.

Multi-exponential fits with a model-selection criterion, and the peaks of
regularised non-negative least squares spectra, as scikit-learn classifiers of
the compartment count. Both work for every contrast in
:data:`corrsk.physics.CONTRASTS`, on grids and on scattered protocols.
"""

from corrsk.relaxometry.multiexponential import MultiExponentialClassifier
from corrsk.relaxometry.spectrum import NNLSPeakClassifier

__all__ = ["MultiExponentialClassifier", "NNLSPeakClassifier"]
