"""Measured images: reading with their protocol, rows of signals, and maps in files."""

from corrsk.imaging.bids import BidsSet, find_bids_sets
from corrsk.imaging.grid import Grid
from corrsk.imaging.images import MeasuredImages, Slab
from corrsk.imaging.maps import MapWriter, write_map
from corrsk.imaging.masker import SignalMasker
from corrsk.imaging.reading import load_images

__all__ = [
    "BidsSet",
    "Grid",
    "MapWriter",
    "MeasuredImages",
    "SignalMasker",
    "Slab",
    "find_bids_sets",
    "load_images",
    "write_map",
]
