"""
Networks, and training on fresh signals
=======================================

The paper's CNN on a stream of signals that are simulated while the network trains, the residual
MLP, which takes any protocol, and a torch module of your own.
"""

import matplotlib.pyplot as plt
from skorch.callbacks import EpochScoring
from torch import nn

from corrsk import (
    AcquisitionProtocol,
    CorrelationCNNClassifier,
    ModuleClassifier,
    PropertyRange,
    ResidualMLPClassifier,
    SignalStream,
    TissuePrior,
)

# %%
# Fresh signals
# -------------
# ``fit_stream`` trains on a stream in place of arrays: no signal is repeated, and none is stored.

stream = SignalStream.named("midl2024-low-noise", random_state=0)
X_test, n_c_test = stream.draw(10_000, 10_000)  # a chunk far beyond those of the training
models = {
    "CNN": CorrelationCNNClassifier(batch_size=500, random_state=0),
    "residual MLP": ResidualMLPClassifier(width=64, n_blocks=1, batch_size=500, random_state=0),
}
accuracies = {}
for name, model in models.items():
    model.fit_stream(stream, 60_000)
    accuracies[name] = model.score(X_test, n_c_test)

# %%
# A module of your own
# --------------------
# Any torch module that maps (n_samples, n_measurements) to (n_samples, n_classes).

module = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 4))
own = ModuleClassifier(module, batch_size=500, random_state=0).fit_stream(stream, 60_000)
accuracies["module"] = own.score(X_test, n_c_test)

# %%
# The arguments of a class of modules are parameters of the classifier, for ``set_params`` and
# searches. Callbacks of skorch follow the training.


class Hidden(nn.Module):
    """One hidden layer."""

    def __init__(self, hidden):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, hidden), nn.GELU(), nn.Linear(hidden, 4))

    def forward(self, signals):
        return self.layers(signals)


scoring = EpochScoring("f1_macro", name="F1", lower_is_better=False)
small = ModuleClassifier(
    Hidden, module__hidden=16, max_epochs=3, random_state=0, validation_fraction=0.2,
    callbacks=[scoring],
).fit(*stream.draw(0, 2_000))  # fmt: skip
print([round(row["F1"], 3) for row in small.history_])

# %%
# Further training
# ----------------
# ``partial_fit`` goes on with 30,000 signals, in chunks of 10,000.

for chunk in range(3):
    own.partial_fit(*stream.draw(20_000 + chunk, 10_000))
accuracies["module, 30,000 more"] = own.score(X_test, n_c_test)

figure, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
bars = ax.barh(list(accuracies), [100 * value for value in accuracies.values()])
ax.bar_label(bars, fmt="%.1f", padding=3)
ax.margins(x=0.1)
ax.set(xlabel="4-class accuracy (%) after 60,000 signals")
ax.invert_yaxis()
plt.show()

# %%
# Another protocol
# ----------------
# Echo times and diffusion weightings: the MLP takes any list of measurements. A prior gives the
# diffusivity of the tissue in µm²/ms.

protocol = AcquisitionProtocol.from_grid(te=[10, 20, 40, 80, 120], b=[0, 0.5, 1, 2])
prior = TissuePrior(
    ranges={"T2": PropertyRange(10, 300, scale="log"), "D": PropertyRange(0.2, 3)},
    n_compartments=(1, 2),
)
diffusion = SignalStream(prior, protocol, noise_level=0.01)
model = ResidualMLPClassifier(width=64, n_blocks=1, batch_size=500, random_state=0)
model.fit_stream(diffusion, 60_000)
print(f"{protocol}: accuracy {model.score(*diffusion.draw(10_000, 5_000)):.3f}")
