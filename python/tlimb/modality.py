"""Which modalities are images and which are time series."""

SERIES = frozenset({"bold"})
"""Modalities whose scans are 4D images over time or parcellated tables; every other modality is a 3D image."""


def kind_of(modality: str) -> str:
    """`series` or `volume`: the kind of recipe that can take scans of this modality."""
    return "series" if modality in SERIES else "volume"
