"""Normalisation and activation layers as MONAI's networks take them, by plain names."""

from math import gcd


def norm_layer(name: str, channels: list[int]) -> tuple[str, dict]:
    """MONAI's name and arguments of a normalisation with trained scale and shift.

    name: "batch"; "instance", over space in each channel; "group" (Wu and He 2018), over space and groups of channels,
    32 groups or as many as divide all widths; "layer", over space and all channels. channels: the widths that are to be
    normalised, or numbers of which they are multiples.
    """
    return {
        "batch": ("batch", {}),
        "instance": ("instance", {"affine": True}),
        "group": ("group", {"num_groups": gcd(32, *channels), "affine": True}),
        "layer": ("group", {"num_groups": 1, "affine": True}),
    }[name]


def activation_layer(name: str) -> str | tuple[str, dict]:
    """MONAI's name and arguments of an activation; ReLU overwrites its input, which saves memory."""
    return ("relu", {"inplace": True}) if name == "relu" else name
