"""Model-based counting of compartments, without learning, and the noise of measured signals.

Scikit-learn classifiers of the compartment count: multi-exponential fits with a model-selection
criterion, the peaks of regularised non-negative least squares spectra, and the ideal observer
(Bayes' rule under the prior, the upper bound of the average accuracy of every method). Spectra
of tissue properties by regularised non-negative least squares, and fractions in windows. All
support every contrast in :data:`corrsk.physics.CONTRASTS`, on grids and on scattered protocols.
"""

from corrsk.relaxometry.calibration import CalibrationWarning, PulseCalibration
from corrsk.relaxometry.ideal_observer.classifier import IdealObserverClassifier
from corrsk.relaxometry.ideal_observer.posterior import CountPosterior
from corrsk.relaxometry.multiexponential import MultiExponentialClassifier
from corrsk.relaxometry.nnls_spectrum import NNLSSpectrum
from corrsk.relaxometry.noise_estimation import Levels, NoiseEstimate, estimate_noise
from corrsk.relaxometry.spectra import Spectra
from corrsk.relaxometry.spectrum import NNLSPeakClassifier

__all__ = [
    "CalibrationWarning",
    "CountPosterior",
    "IdealObserverClassifier",
    "Levels",
    "MultiExponentialClassifier",
    "NNLSPeakClassifier",
    "NNLSSpectrum",
    "NoiseEstimate",
    "PulseCalibration",
    "Spectra",
    "estimate_noise",
]
