"""The ideal observer: Bayes' rule under the prior, by sequential Monte Carlo."""

from corrsk.relaxometry.ideal_observer.classifier import IdealObserverClassifier
from corrsk.relaxometry.ideal_observer.posterior import CountPosterior

__all__ = ["CountPosterior", "IdealObserverClassifier"]
