"""How well images of held-out scans are reconstructed: the scores of a training without targets."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from tlimb.architectures.forward import in_batches
from tlimb.architectures.network import Network
from tlimb.data.view import View
from tlimb.evaluation.bootstrap import percentile_interval, person_bootstrap
from tlimb.evaluation.predict import Bootstrap, scores


def reconstruction_scores(
    network: Network, term: nn.Module, rows: pd.DataFrame, view: View, device: torch.device, bootstrap: Bootstrap
) -> dict:
    """What scores.json says of a training without targets, but for its id.

    term: its primary term. "reconstruction" holds the error that it minimises, mean over the scans of `rows` (scan_id,
    person), with its interval over persons; it is empty for a term that gives no error for each scan (`each`, see
    Reconstruction) and where there are no scans.
    """
    found = scores(rows, [], "test", bootstrap)
    if not hasattr(term, "each") or len(rows) == 0:
        return found | {"reconstruction": {}}

    term.eval()

    def errors(images: Tensor) -> Tensor:
        return term.each(images, network(term.seen(images), [term.head]))

    values = in_batches(network, errors, view.dataset(rows[["scan_id", "person"]], []), view, device)
    persons, codes = np.unique(rows["person"].to_numpy(str), return_inverse=True)
    means = person_bootstrap(
        lambda weights: weights[:, codes] @ values / weights[:, codes].sum(axis=1),
        len(persons),
        resamples=bootstrap.resamples,
        seed=bootstrap.seed,
    )
    low, high = percentile_interval(means, bootstrap.confidence)
    return found | {"reconstruction": {term.loss: {"value": float(values.mean()), "low": low, "high": high}}}
