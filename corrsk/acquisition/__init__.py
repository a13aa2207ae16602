"""Acquisition protocols, their files, and the comparison of two protocols."""

from corrsk.acquisition.compatibility import (
    ProtocolComparison,
    ProtocolMismatchError,
    ProtocolWarning,
    compare_protocols,
)
from corrsk.acquisition.protocol import AcquisitionProtocol, protocol_of_columns, resolve_protocol

__all__ = [
    "AcquisitionProtocol",
    "ProtocolComparison",
    "ProtocolMismatchError",
    "ProtocolWarning",
    "compare_protocols",
    "protocol_of_columns",
    "resolve_protocol",
]
