"""Heads of the stage before, to be trained or looked at beside the new ones."""

import re

from torch import Tensor, nn

from tlimb.errors import InputError, Problem
from tlimb.objectives.term import Beginning

LAYER = re.compile(r"^(?:(\d+)\.)?(weight|bias)$")


def source_head(beginning: Beginning, target: str, where: str) -> nn.Sequential:
    """The head of one target of the stage before, with its weights: a LinearHead, or an MLPHead without its dropout.

    Takes features (B, F), gives outputs (B, outputs). Raises InputError for a head of another form, or for other
    features.
    """
    tensors = beginning.source_heads[target]
    layers: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = LAYER.match(name)
        if found is None:
            raise InputError([_unknown(where, target)])
        layers.setdefault(int(found[1] or 0), {})[found[2]] = tensor
    ordered = [layers[place] for place in sorted(layers)]
    if not ordered or any(layer.keys() != {"weight", "bias"} or layer["weight"].ndim != 2 for layer in ordered):
        raise InputError([_unknown(where, target)])
    width, features = ordered[0]["weight"].shape[1], beginning.network.encoder.features
    if width != features:
        message = f"the head of '{target}' in the stage before takes {width} features, and the encoder gives {features}"
        raise InputError([Problem(where, message)])
    parts: list[nn.Module] = []
    for layer in ordered:
        linear = nn.Linear(*reversed(layer["weight"].shape))
        linear.load_state_dict(layer)
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def _unknown(where: str, target: str) -> Problem:
    message = f"the head of '{target}' in the stage before is no LinearHead and no MLPHead"
    return Problem(where, message, "give it one of these in that stage's `heads`")
