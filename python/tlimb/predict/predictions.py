"""Prepared scans through an ensemble of models."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from tlimb.architectures.forward import passed
from tlimb.data.targets import Target
from tlimb.data.view import View
from tlimb.evaluation.dropout import dropout_layers, dropout_outputs
from tlimb.evaluation.familiar import familiarity, unfamiliar
from tlimb.evaluation.predict import LOOKS, view_of
from tlimb.evaluation.together import together
from tlimb.files import canonical_json
from tlimb.predict.ensemble import Ensemble, Member
from tlimb.store import Store


@dataclass(frozen=True)
class Predicted:
    """One target of n scans.

    prediction: (n,) of the form of `Target.truth`. probabilities: (n, classes) as networks give them, None for numbers.
    spread, dropout: (n,) standard deviations between members and between passes with dropout; None without such.
    """

    target: Target
    prediction: np.ndarray
    probabilities: np.ndarray | None
    spread: np.ndarray | None
    dropout: np.ndarray | None


@dataclass(frozen=True)
class Familiar:
    """How familiar n scans are: p (n,), mean over the members that can tell, and whether most of these call them
    unfamiliar; None where no member can tell. against: with how many validation scans each member compared them."""

    p: np.ndarray
    doubtful: np.ndarray
    against: tuple[int, ...]


def predict_scans(
    ensemble: Ensemble,
    store: Store,
    scans: pd.DataFrame,
    device: torch.device,
    *,
    passes: int = 0,
    trusted: Sequence[str] = (),
) -> tuple[list[Predicted], Familiar | None]:
    """Predictions of every target for the scans (scan_id, person) of a store, in their order.

    passes: with dropout left on, for each member; 0 for none. A member's numbers are those of EVALUATE bit for bit.
    """
    views, outputs, dropped, told, against = {}, [], [], [], []
    for member in ensemble.members:
        view = _shared_view(member, views, store, scans, device, trusted)
        targets = member.model.targets
        dataset = view.dataset(scans.assign(**{target.name: np.nan for target in targets}), targets)
        names, network = [target.name for target in targets], member.model.network
        features, found = passed(network, names, dataset, view, device)
        outputs.append(_decoded(targets, found))
        if passes and dropout_layers(network):
            many = dropout_outputs(network, names, dataset, view, device, passes=passes, seed=0)
            dropped.append([_decoded(targets, {name: many[name][one] for name in names}) for one in range(passes)])
        if member.fitted and member.fitted["features"]:
            p = familiarity(member.fitted["features"], features)[1]
            told.append((p, unfamiliar(member.fitted["features"], p)))
            against.append(len(member.fitted["features"]["held_out"]))
    predicted = [_predicted(number, target, outputs, dropped) for number, target in enumerate(ensemble.targets)]
    if not told:
        return predicted, None
    p, doubts = (np.stack(values) for values in zip(*told))
    return predicted, Familiar(p.mean(axis=0), doubts.mean(axis=0) > 0.5, tuple(against))


def _shared_view(member: Member, views: dict[str, View], store, scans, device, trusted) -> View:
    """How scans reach a member's network; members that want the same images share them."""
    facts = member.model.facts
    key = canonical_json([facts[name] for name in LOOKS])
    if key not in views:
        views.clear()  # given back before the next images are read
        views[key] = view_of(facts, store, scans["scan_id"], device, trusted)
    return views[key]


Decoded = list[tuple[np.ndarray, np.ndarray | None]]
"""Prediction (n,) and probabilities (n, classes) or None of each target."""


def _decoded(targets: Sequence[Target], outputs: dict[str, np.ndarray]) -> Decoded:
    return [target.decode(outputs[target.name]) for target in targets]


def _predicted(number: int, target: Target, outputs: list[Decoded], dropped: list[list[Decoded]]) -> Predicted:
    """One target, averaged over members; the spread by dropout is the mean over members of their own."""
    prediction, probabilities, spread = _averaged(number, target, outputs)
    spreads = [_averaged(number, target, passes)[2] for passes in dropped]
    return Predicted(
        target,
        prediction,
        probabilities,
        spread if len(outputs) > 1 else None,
        np.mean(spreads, axis=0) if spreads else None,
    )


def _averaged(number: int, target: Target, several: list[Decoded]) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    if len(several) == 1:
        return *several[0][number], np.zeros(len(several[0][number][0]))
    predictions = np.stack([each[number][0] for each in several])
    classes = None if several[0][number][1] is None else np.stack([each[number][1] for each in several])
    return together(target.kind, predictions, classes)
