"""How well a training without targets does on held-out scans: its scores."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from tlimb.architectures.forward import in_batches
from tlimb.architectures.network import Network
from tlimb.data.view import View
from tlimb.evaluation.bootstrap import percentile_interval, person_bootstrap
from tlimb.evaluation.predict import Bootstrap, scores
from tlimb.objectives.term import Step


def scores_without_targets(
    network: Network, term: nn.Module, rows: pd.DataFrame, view: View, device: torch.device, bootstrap: Bootstrap
) -> dict:
    """What scores.json says of a training without targets, but for its id.

    term: its primary term, as it was trained. "loss" holds the value that it minimises, by its name: `loss` of the term
    ("mse", "l1") or its class in lower case. Where the term gives a value for each scan, `each(step)` -> (B,), this is
    their mean over the scans of `rows` (scan_id, person) with its interval over persons. Else it is the mean over
    batches of `tlimb.architectures.forward.BATCH` scans, each as often as it has scans, whose low and high are None.
    It is empty where there are no scans.
    """
    found = scores(rows, [], "test", bootstrap)
    if len(rows) == 0:
        return found | {"loss": {}}
    term.to(device).eval()
    dataset = view.dataset(rows[["scan_id", "person"]], [])
    values = in_batches(network, _valued(network, term), dataset, view, device)
    low, high = _interval(values, rows["person"], bootstrap) if hasattr(term, "each") else (None, None)
    return found | {"loss": {_name(term): {"value": float(values.mean(dtype=float)), "low": low, "high": high}}}


def _name(term: nn.Module) -> str:
    loss = getattr(term, "loss", None)
    return loss if isinstance(loss, str) else type(term).__name__.lower()


def _valued(network: Network, term: nn.Module) -> Callable[[Tensor], Tensor]:
    """Images (B, C, ...) -> the term's value for each, or what it is for their batch, (B,)."""

    def valued(images: Tensor) -> Tensor:
        step = Step(network, images, [], labelled=len(images), training=False, seen=getattr(term, "seen", None))
        return term.each(step) if hasattr(term, "each") else term(step).expand(len(images))

    return valued


def _interval(values: np.ndarray, persons: pd.Series, bootstrap: Bootstrap) -> tuple[float | None, float | None]:
    """Of the mean over scans, drawn anew by persons."""
    names, codes = np.unique(persons.to_numpy(str), return_inverse=True)
    means = person_bootstrap(
        lambda weights: weights[:, codes] @ values / weights[:, codes].sum(axis=1),
        len(names),
        resamples=bootstrap.resamples,
        seed=bootstrap.seed,
    )
    return percentile_interval(means, bootstrap.confidence)


reconstruction_scores = scores_without_targets
