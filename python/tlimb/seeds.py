"""A tree of named seeds, so that adding one consumer never moves another's random numbers."""

import hashlib


def seed_for(root: int, *names) -> int:
    """A 63-bit seed for the branch `names` under `root`; a pure function of its arguments.

    >>> seed_for(0, "augmentation") != seed_for(0, "order")
    True
    """
    text = "/".join([str(root), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
