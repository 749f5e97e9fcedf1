"""What the channels of a pretrained encoder are worth for targets that it has not learned yet.

Li et al. (2019), "DELTA", ICLR, section 3.3; what the text leaves open is as in the authors' code.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem
from tlimb.labels import ONE_CLASS
from tlimb.objectives.frozen import FrozenEncoder
from tlimb.objectives.term import Beginning
from tlimb.objectives.watching import channel_axis, first, watched, with_first


def channel_attention(
    before: FrozenEncoder, channels: dict[str, int], beginning: Beginning, scans: int, where: str
) -> dict[str, Tensor]:
    r"""Layer -> weights (C,) of its channels, which sum to 1: softmax_c(z_c / 5), z the standardised losses of value

        d_c = L(w^0 without channel c) - L(w^0),

    where without a channel means that what it makes is 0, and L is the loss of linear heads, summed over targets and
    over `scans` training scans that have a label. The heads are fitted to the encoder's features of all training scans,
    standardised: cross-entropy for classes, squared error for quantities, with half the squared weights added to the
    sum over scans.

    Each channel is a pass of these scans through what follows its layer. Raises InputError for times until an event,
    which have no such head.
    """
    times = [of.name for of in beginning.targets if of.kind == "survival"]
    if times or not beginning.targets:
        message = f"attention 'losses' needs classes or quantities to learn, found {', '.join(times) or 'no target'}"
        raise InputError([Problem(where, message, "expected attention 'none'")])
    features, labels = _features(before, beginning)
    probes = [_fit(of, features, label) for of, label in zip(beginning.targets, labels)]
    drawn = set(torch.randperm(len(features))[:scans].tolist())
    worth = {name: torch.zeros(count, dtype=torch.float64) for name, count in channels.items()}
    for images, known in _drawn(beginning, drawn):
        for name, rises in worth.items():
            with _resumed(before.encoder, name, lambda: before(images)):
                whole = _loss(probes, before(images), known)
                for channel in range(len(rises)):
                    with _without(before.encoder, name, channel):
                        rises[channel] += _loss(probes, before(images), known) - whole
    return {name: softened(rises).float() for name, rises in worth.items()}


def softened(worth: Tensor) -> Tensor:
    """softmax(z / 5) of standardised values (C,); equal weights where all values are alike."""
    spread = worth.std(correction=0)
    return torch.softmax((worth - worth.mean()) / torch.where(spread > 0, spread, 1.0) / 5, 0)


def _features(before: FrozenEncoder, beginning: Beginning) -> tuple[Tensor, list[Tensor]]:
    """The encoder's features (n, F) of all training scans, and their labels."""
    parts = [(before(images), labels) for images, labels in beginning.batches()]
    labels = [torch.cat(each) for each in zip(*(labels for _, labels in parts))]
    return torch.cat([features for features, _ in parts]), labels


def _drawn(beginning: Beginning, places: set[int]) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """The training scans at some places in their order, in batches."""
    seen = 0
    for images, labels in beginning.batches():
        chosen = [n for n in range(len(images)) if seen + n in places]
        seen += len(images)
        if chosen:
            yield images[chosen], [label[chosen] for label in labels]


@contextmanager
def _resumed(encoder: nn.Module, layer: str, passed: Callable[[], Tensor]) -> Iterator[None]:
    """Within it a layer, and the blocks before it, give what they made in the pass `passed`, and compute nothing."""
    owner = next((n for n, block in enumerate(encoder.blocks) if f"{layer}.".startswith(f"{block}.")), 0)
    names = list(dict.fromkeys([*encoder.blocks[:owner], layer]))
    with watched(encoder, names, lambda made: made.clone() if isinstance(made, Tensor) else None) as made:
        passed()
    passes = [name for name, _ in made]
    given = {name: maps for name, maps in made if maps is not None and passes.count(name) == 1}
    for name, maps in given.items():
        encoder.get_submodule(name).forward = lambda *_, maps=maps, **__: maps.clone()
    try:
        yield
    finally:
        for name in given:
            del encoder.get_submodule(name).forward


@contextmanager
def _without(encoder: nn.Module, layer: str, channel: int) -> Iterator[None]:
    """Within it, one channel of a layer is 0."""

    def drop(module, inputs, output):
        maps = first(output)
        return with_first(output, maps.index_fill(channel_axis(maps, encoder), torch.tensor([channel]), 0.0))

    hook = encoder.get_submodule(layer).register_forward_hook(drop)
    try:
        yield
    finally:
        hook.remove()


def _fit(target: Target, features: Tensor, label: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """(features, labels) -> the sum of the losses of a linear head of a target over scans that have a label.

    Fitted by L-BFGS to the mean over such scans.
    """
    features = features.double()
    mean, spread = features.mean(0), features.std(0, correction=0).clamp(min=1e-6)
    width = len(target.classes) if target.classes else 1
    head = nn.Linear(features.shape[1], width, dtype=torch.float64)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def total(values: Tensor, labels: Tensor) -> Tensor:
        known = ~labels.isnan().reshape(len(labels), -1).any(1)
        return _losses(target, head((values[known].double() - mean) / spread), labels[known])

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = total(features, label) + head.weight.square().sum() / 2
        (value / len(features)).backward()
        return value / len(features)

    with torch.enable_grad():
        optimizer.step(closure)
    head.requires_grad_(False)
    return total


def _losses(target: Target, output: Tensor, label: Tensor) -> Tensor:
    """The sum over scans."""
    if target.kind in ONE_CLASS:
        return cross_entropy(output, label.long(), reduction="sum")
    if target.kind == "multilabel":
        return binary_cross_entropy_with_logits(output, label.to(output), reduction="sum") / max(label.shape[1], 1)
    return mse_loss(output[:, 0], label.to(output), reduction="sum")


def _loss(probes: list[Callable], features: Tensor, labels: list[Tensor]) -> float:
    """The sum over scans and targets."""
    return float(sum(probe(features, label) for probe, label in zip(probes, labels)))
