"""Save and load fitted estimators, without pickle.

Files have the safetensors format: weights are stored as tensors, everything else as JSON in
the header. Loading a file executes no code from the file, and any safetensors reader can
inspect the file. Digests of all parts detect damage.
"""

from corrsk._utils.files import InvalidFileError
from corrsk.persistence._estimators import load, save

__all__ = ["InvalidFileError", "load", "save"]
