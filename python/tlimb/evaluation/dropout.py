"""Monte Carlo dropout: passes with dropout left on, whose spread tells how unsure a network is.

Gal, Ghahramani (2016), "Dropout as a Bayesian approximation: representing model uncertainty in deep learning", ICML.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tlimb.architectures.forward import in_batches
from tlimb.architectures.network import Network
from tlimb.data.targets import Target
from tlimb.data.view import View
from tlimb.evaluate_settings import Evaluate
from tlimb.evaluation.bootstrap import Bootstrap
from tlimb.evaluation.metrics import METRICS, with_intervals
from tlimb.evaluation.tables import prediction_table
from tlimb.evaluation.together import together
from tlimb.seeds import seed_for

LAYERS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def dropout_layers(network: nn.Module) -> list[nn.Module]:
    """The modules that drop anything: those of torch (of values, of whole channels, for SELU) with a rate above 0. What
    is dropped inside of another module, as in attention and recurrent layers of torch, and whole paths are not among
    them."""
    return [module for module in network.modules() if isinstance(module, LAYERS) and module.p > 0]


def dropout_outputs(
    network: Network,
    names: Sequence[str],
    dataset: Dataset,
    view: View,
    device: torch.device,
    *,
    passes: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Raw outputs {head: (passes, n, outputs)}, float32, with the network's dropout layers in training mode and all
    else, statistics above all, in evaluation mode. All passes of a batch see the same images; each has a seed of its
    own."""
    layers, widths, batches = dropout_layers(network), [], iter(range(len(dataset)))

    def forward(images: Tensor) -> Tensor:
        number = next(batches)
        for layer in layers:
            layer.train()
        parts = []
        for one in range(passes):
            torch.manual_seed(seed_for(seed, "dropout", one, number))
            outputs = network(images, names)
            widths[:] = [outputs[name].shape[1] for name in names]
            parts += [outputs[name] for name in names]
        return torch.cat(parts, 1)

    try:
        made = in_batches(network, forward, dataset, view, device)
    finally:
        network.eval()
    made = made.reshape(len(made), passes, sum(widths)).swapaxes(0, 1)
    return dict(zip(names, np.split(made, np.cumsum(widths)[:-1], axis=2)))


def dropped_table(
    network: Network,
    targets: Sequence[Target],
    rows: pd.DataFrame,
    dataset: Dataset,
    view: View,
    device: torch.device,
    settings: Evaluate,
) -> pd.DataFrame | None:
    """The table of the mean over passes, as of predictions, with a column `dropout_sd`: the standard deviation over
    passes of what `together` says. None where the network has no dropout layer. dataset: of the rows."""
    if not dropout_layers(network):
        return None
    names = [target.name for target in targets]
    outputs = dropout_outputs(network, names, dataset, view, device, passes=settings.dropout, seed=settings.seed)
    means = {target.name: _mean(target, outputs[target.name]) for target in targets}
    table = prediction_table(targets, rows, {name: means[name][:2] for name in names})
    spread = pd.concat([rows[["scan_id"]].assign(target=name, dropout_sd=means[name][2]) for name in names])
    return table.merge(spread, on=["target", "scan_id"], how="left", validate="one_to_one")


def add_dropout(found: dict, dropped: pd.DataFrame | None, passes: int, bootstrap: Bootstrap) -> None:
    """Put the scores of the mean over passes, or a note that there is no dropout, into the content of a scores file."""
    for name, about in found["targets"].items():
        if dropped is None:
            about["dropout"] = None
            about["notes"].append("no passes with dropout: the network has no such layer")
            continue
        kind, rows = about["kind"], dropped[dropped["target"] == name]
        about["dropout"] = {"passes": passes, "metrics": with_intervals(METRICS[kind], rows, kind, bootstrap)[0]}


def _mean(target: Target, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    decoded = [target.decode(one) for one in outputs]
    probabilities = None if decoded[0][1] is None else np.stack([one[1] for one in decoded])
    return together(target.kind, np.stack([one[0] for one in decoded]), probabilities)
