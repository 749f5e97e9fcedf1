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
from tlimb.objectives.watching import channel_axis, first, with_first


def channel_attention(
    before: FrozenEncoder, channels: dict[str, int], beginning: Beginning, scans: int, where: str
) -> dict[str, Tensor]:
    r"""Layer -> weights (C,) of its channels, which sum to 1: softmax_c(z_c / 5), z the standardised losses of value

        d_c = L(w^0 without channel c) - L(w^0),

    where a channel is without what it makes when that is set to 0, and L is the mean over `scans` training scans of the
    loss of linear heads. These are fitted to the encoder's features of all training scans: cross-entropy for classes,
    squared error for quantities, summed over targets, with a penalty of half the squared weights / n.

    Each channel is a pass of these scans. Raises InputError for times until an event, which have no such head.
    """
    times = [of.name for of in beginning.targets if of.kind == "survival"]
    if times or not beginning.targets:
        message = f"attention 'losses' needs classes or quantities to learn, found {', '.join(times) or 'no target'}"
        raise InputError([Problem(where, message, "expected attention 'none'")])
    features, labels = _features(before, beginning)
    probes = [_fit(of, features, label) for of, label in zip(beginning.targets, labels)]
    drawn = set(torch.randperm(len(features))[:scans].tolist())
    images, chosen = zip(*_drawn(beginning, drawn))
    chosen = [torch.cat(each) for each in zip(*chosen)]

    def loss() -> float:
        seen = torch.cat([before(batch) for batch in images])
        return float(sum(probe(seen, label) for probe, label in zip(probes, chosen)))

    whole, weights = loss(), {}
    for name, count in channels.items():
        worth = []
        for channel in range(count):
            with _without(before.encoder, name, channel):
                worth.append(loss() - whole)
        weights[name] = softened(torch.tensor(worth))
    return weights


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
    """(features, labels) -> the mean loss of a linear head of a target, fitted by L-BFGS to those that have a label."""
    known = ~label.isnan().reshape(len(label), -1).any(1)
    features, label = features[known].double(), label[known]
    mean, spread = features.mean(0), features.std(0, correction=0).clamp(min=1e-6)
    width = len(target.classes) if target.classes else 1
    head = nn.Linear(features.shape[1], width, dtype=torch.float64)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def of(images: Tensor, labels: Tensor) -> Tensor:
        return _loss(target, head((images.double() - mean) / spread), labels)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = of(features, label) + head.weight.square().sum() / 2 / len(features)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
    head.requires_grad_(False)
    return of


def _loss(target: Target, output: Tensor, label: Tensor) -> Tensor:
    """The mean loss over scans that have a label; 0 where none has."""
    known = ~label.isnan().reshape(len(label), -1).any(1)
    output, label = output[known], label[known]
    if not len(label):
        return output.sum()
    if target.kind in ONE_CLASS:
        return cross_entropy(output, label.long())
    if target.kind == "multilabel":
        return binary_cross_entropy_with_logits(output, label.to(output))
    return mse_loss(output[:, 0], label.to(output))

