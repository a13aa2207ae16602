"""Nuisance parameters that have an effect on the measurements of a protocol, and its scale."""

from __future__ import annotations

from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics import CONTRASTS
from corrsk.tissue.nuisances import Nuisances


def check_nuisances(nuisances: Nuisances, protocol: AcquisitionProtocol) -> None:
    """Refuse nuisance parameters without an effect on the signals of a protocol.

    Parameters
    ----------
    nuisances : Nuisances
        Ranges of nuisance parameters.
    protocol : AcquisitionProtocol
        Protocol.

    Raises
    ------
    ValueError
        If there is a range of an inversion efficiency without inversion, of a B1 without an echo
        train, of a loss per echo without echo times, or of a gain without two series.
    """
    drawn = nuisances.names
    n_series = 1 if protocol.series is None else int(protocol.series.max()) + 1
    contrasts = [CONTRASTS[name] for name in protocol.contrasts]
    if "inversion_efficiency" in drawn and not any(one.longitudinal for one in contrasts):
        raise ValueError(
            "there is a range of inversion_efficiency, but the protocol has no inversion (TI)"
        )
    if "echo_loss" in drawn and "TE" not in protocol.contrasts:
        raise ValueError("there is a range of echo_loss, but the protocol has no echo times (TE)")
    if "b1" in drawn and protocol.readout is None:
        raise ValueError(
            "there is a range of b1, which scales the flip angles of echo trains, but the protocol "
            "has single spin echoes; pass readout=EchoTrain(spacing) to the protocol"
        )
    if "gain" in drawn and n_series != 2:
        raise ValueError(
            "there is a range of gain, the scale of the second of two series, but the protocol "
            f"has {n_series} series; see AcquisitionProtocol.concatenate(.., same_gain=False)"
        )


def check_gains(nuisances: Nuisances | None, protocol: AcquisitionProtocol) -> None:
    """Refuse several series without a range of their gain: their gains would be taken for equal.

    Parameters
    ----------
    nuisances : Nuisances or None
        Ranges of nuisance parameters.
    protocol : AcquisitionProtocol
        Protocol.

    Raises
    ------
    ValueError
        If the protocol has several series, whose relative scale is unknown, and the nuisance
        parameters have no range of the gain.
    """
    if protocol.series is not None and (nuisances is None or "gain" not in nuisances.names):
        raise ValueError(
            f"the protocol has {protocol.series.max() + 1} series, whose relative scale is "
            "unknown, but the prior has no range of their gain and would take it for 1; pass "
            "nuisances=Nuisances(gain=(low, high)) to the prior, or, if the receiver gains are "
            "equal, join the series with AcquisitionProtocol.concatenate(.., same_gain=True)"
        )


def check_one_scale(protocol: AcquisitionProtocol) -> None:
    """Refuse a protocol of several series, whose relative scale is unknown.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        Protocol.

    Raises
    ------
    ValueError
        If there are several series: shapes of signals of one scale do not describe their signals.
    """
    if protocol.series is not None:
        raise ValueError(
            f"the protocol has {protocol.series.max() + 1} series, whose relative scale is "
            "unknown; pass each series with its own protocol (AcquisitionProtocol.subset)"
        )
