"""Warm starts: the columns of a further fit in the order of the earlier one."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from corrsk._utils.validation import as_numpy, layout_of
from corrsk._utils.voxels import user_level
from corrsk.acquisition._differences import pairing
from corrsk.acquisition.compatibility import what_differs
from corrsk.acquisition.labels import column_names, in_protocol_order, with_column_names
from corrsk.acquisition.protocol import (
    AcquisitionProtocol,
    column_order,
    protocol_of_columns,
    resolve_protocol,
)
from corrsk.preprocessing.signals import layout_of_protocol
from corrsk.simulation.streams import SignalStream


@dataclass(frozen=True, eq=False)
class EarlierFit:
    """Net, classes and columns of an earlier fit, for a warm start.

    Parameters
    ----------
    net : SignalNet
        The trained net.
    classes : array of shape (n_classes,)
        The labels.
    n_features : int
        Number of columns.
    names : list of str or None
        Names of the columns, if they have names.
    protocol : AcquisitionProtocol or None
        Protocol of the columns in their order, if known.
    """

    net: Any
    classes: NDArray[Any]
    n_features: int
    names: list[str] | None
    protocol: AcquisitionProtocol | None

    @classmethod
    def from_estimator(cls, estimator: Any) -> EarlierFit:
        """Collect the results of the fit of a network classifier."""
        names = getattr(estimator, "feature_names_in_", None)
        return cls(
            estimator.net_, estimator.classes_, estimator.n_features_in_,
            None if names is None else list(names), getattr(estimator, "protocol_", None),
        )  # fmt: skip

    def check(self, classes: NDArray[Any], n_features: int) -> None:
        """Check the classes and the number of columns of a further fit.

        Raises
        ------
        ValueError
            If they are not those of the earlier fit.
        """
        if not np.array_equal(self.classes, classes):
            raise ValueError(
                f"warm_start=True needs the classes of the earlier fit, "
                f"{self.classes.tolist()}; got {classes.tolist()}"
            )
        if self.n_features != n_features:
            raise ValueError(
                f"warm_start=True needs the {self.n_features} columns of the earlier fit; X "
                f"has {n_features}"
            )

    # -- signals ---------------------------------------------------------------

    def aligned(self, X: Any) -> Any:
        """Signals of a further fit with the columns, and their names, of the earlier fit.

        Parameters
        ----------
        X : array or table
            Signals; not validated yet.

        Returns
        -------
        array or DataFrame
            Signals in the order of the columns of the earlier fit.

        Raises
        ------
        ValueError
            If the names, or the axes, describe other measurements than those of the earlier fit.

        Warns
        -----
        UserWarning
            If only one of both fits has names of columns, and no protocol gives the order.
        """
        X = as_numpy(with_column_names(X))
        found = column_names(X)
        if self.names is not None:
            if found is not None:
                return self._in_order_of_names(X, found)
            self._warn_of_order("X has no names of columns, but those of the earlier fit had names")
            known = protocol_of_columns(self.names, self.protocol)
            if known is not None:
                layout_of_protocol(layout_of(X), known)
            return self.with_names(X)
        if self.protocol is not None:
            layout_of_protocol(layout_of(X), self.protocol)
            try:
                return in_protocol_order(X, self.protocol)
            except ValueError as error:
                raise ValueError(f"warm_start=True: {error}") from error
        if found is not None:
            self._warn_of_order(
                "X has names of columns, but the signals of the earlier fit had none"
            )
            return np.asarray(X)
        return X

    def _in_order_of_names(self, X: Any, found: list[str]) -> Any:
        """Table with the columns and the names of the earlier fit, given one with names."""
        assert self.names is not None
        if found == self.names:
            return X
        if sorted(found) == sorted(self.names):
            position = {name: k for k, name in enumerate(found)}
            order = [position[name] for name in self.names]
        else:  # perhaps other spellings of the same measurements
            order = self._order_of_measurements(found)
        if hasattr(X, "iloc"):
            return X.iloc[:, order].set_axis(self.names, axis=1)
        return pd.DataFrame(np.take(np.asarray(X), order, axis=1), columns=self.names)

    def _order_of_measurements(self, found: list[str]) -> list[int]:
        assert self.names is not None
        wanted = protocol_of_columns(self.names, self.protocol)
        if wanted is not None:
            try:
                order = column_order(wanted, found)
            except ValueError:  # the message below names the columns as the user does
                order = None
            if order is not None:
                return [int(position) for position in order]
        lacking = [name for name in self.names if name not in set(found)]
        extra = [name for name in found if name not in set(self.names)]
        differences = [
            *(f"lacks {name!r}" for name in lacking[:1]),
            *(f"has {name!r}, which the earlier fit lacked" for name in extra[:1]),
        ] or ["repeats names"]
        raise ValueError(
            "warm_start=True needs the columns of the earlier fit, in any order; X "
            f"{' and '.join(differences)} ({len(found)} columns in place of "
            f"{len(self.names)})"
        )

    def with_names(self, X: Any) -> Any:
        """Table with the names of the earlier fit, if it had names.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals without names, in the order of the earlier fit.

        Returns
        -------
        array or DataFrame
            The signals.
        """
        values = np.asarray(X)
        if self.names is None or values.ndim < 2 or math.prod(values.shape[1:]) != self.n_features:
            return X  # refused by the validation
        return pd.DataFrame(values.reshape(len(values), -1), columns=self.names)

    def _warn_of_order(self, why: str) -> None:
        warnings.warn(
            f"{why}; warm_start=True takes the columns for those of the earlier fit, in its order",
            stacklevel=user_level(),
        )

    # -- streams ---------------------------------------------------------------

    def aligned_stream(self, stream: SignalStream) -> SignalStream:
        """Stream of a further fit with its columns in the order of the earlier fit.

        Parameters
        ----------
        stream : SignalStream
            The stream.

        Returns
        -------
        SignalStream
            The same signals in the order of the earlier fit, where this order is known.

        Raises
        ------
        ValueError
            If the stream has another protocol than the earlier fit.
        """
        protocol = resolve_protocol(stream.protocol)
        own = self.protocol
        if self.names is not None and (own is None or own.tr is None):  # names may lack TR
            try:
                own = protocol_of_columns(self.names, protocol) or own
            except ValueError:  # of other measurements
                own = own or protocol_of_columns(self.names)
        if own is None:
            return stream
        if own != protocol:
            difference = what_differs(own, protocol, pairing(own, protocol))
            raise ValueError(
                "warm_start=True needs the measurements of the earlier fit, in any order; the "
                f"stream has {difference}"
            )
        return replace(stream, protocol=own)
