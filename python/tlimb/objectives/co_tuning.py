"""Co-tuning: the head of the stage before is trained along, on what its classes have to do with the new ones.

You, Kou, Long, Wang (2020), "Co-tuning for transfer learning", NeurIPS.
"""

import torch
from torch import Tensor, nn

from tlimb.data.augment.mixup import Mixed
from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem
from tlimb.labels import ONE_CLASS
from tlimb.objectives.agreement import log_probabilities
from tlimb.objectives.frozen import FrozenEncoder, require_pretrained
from tlimb.objectives.source_heads import source_head
from tlimb.objectives.term import Beginning, Step, Term

WHERE = "objective.auxiliary: CoTuning"


class CoTuning(Term):
    r"""mean_i -sum_s p(s | y_i) log q_s(x_i), q the probabilities that the head of the stage before gives its classes.

    p(s | y) is what the pretrained network makes of the training scans of class y before training, on the average (the
    paper's direct approach), its probabilities calibrated: outputs are divided by a temperature that was fitted to the
    validation part of the stage before and that it keeps in encoder.json (1 where it kept none). q is not calibrated,
    as in the authors' code; its head starts from the weights that it had and trains along, and is dropped in the end.

    Heads of classes, ordered classes and bins (each a class) are taken, targets of classes, ordered or not; over
    several heads and targets it is the mean. Scans without a label count nowhere. The reverse approach, which learns
    p(y | s) and turns it round, is left out: it selects its penalty on validation people. The authors weigh it by 2.3,
    which is its weight unless the sweep says another one.

    Raises InputError where the encoder is not pretrained, and where no head of the stage before or no target has
    classes.
    """

    needs = ("pretrained", "whole", "source_head", "moving")
    default_weight = 2.3

    def __init__(self):
        super().__init__()
        self.sources: list[Target] = []
        self.places: list[int] = []

    def start(self, beginning: Beginning) -> None:
        """Take over the heads, and see what their classes have to do with those of the targets."""
        require_pretrained(beginning, "CoTuning")
        self.sources = [of for of in beginning.source_targets if of.kind in ONE_CLASS or of.bins]
        self.places = [place for place, of in enumerate(beginning.targets) if of.kind in ONE_CLASS]
        problems = []
        if not self.sources:
            message = "needs a head of classes or bins in the stage before, found none"
            problems.append(Problem(WHERE, message, "heads.<target>.bins there makes a quantity one"))
        if not self.places:
            problems.append(Problem(WHERE, "needs a target of classes, found none"))
        if problems:
            raise InputError(problems)
        self.own_heads = nn.ModuleList(source_head(beginning, of.name, WHERE) for of in self.sources)
        features, labels = _seen(beginning)
        for s, (source, head) in enumerate(zip(self.sources, self.own_heads)):
            temperature = beginning.source_temperatures.get(source.name, 1.0)
            with torch.no_grad():
                probabilities = log_probabilities(source, head(features) / temperature)[:, 0].exp()
            for place in self.places:
                classes = len(beginning.targets[place].classes)
                self.register_buffer(f"relation{s}_{place}", relationship(probabilities, labels[place], classes))

    def forward(self, step: Step) -> Tensor:
        """The term's value, a scalar."""
        found = []
        for s, (source, head) in enumerate(zip(self.sources, self.own_heads)):
            logs = log_probabilities(source, head(step.features))[:, 0]
            for place in self.places:
                found.append(self._loss(logs, step.labels, place, getattr(self, f"relation{s}_{place}")))
        return sum(found) / len(found)

    def _loss(self, logs: Tensor, labels: list[Tensor] | Mixed, place: int, relation: Tensor) -> Tensor:
        """The mean over scans that have a label, of mixed ones by their shares; 0 where none has."""
        sides = [(labels[place], 1.0)] if not isinstance(labels, Mixed) else [
            (labels.labels[place], labels.weight),
            (labels.partner[place], 1 - labels.weight),
        ]  # fmt: skip
        total, counted = logs.sum() * 0, torch.zeros((), device=logs.device)
        for label, share in sides:
            known = torch.where(label.isnan(), 0.0, share)
            losses = -(relation[label.nan_to_num(0.0).long()] * logs).sum(1)
            total, counted = total + (known * losses).sum(), counted + known.sum()
        return total / counted.clamp(min=1)


def relationship(probabilities: Tensor, label: Tensor, classes: int) -> Tensor:
    """p(s | y), (classes, S): the mean of the probabilities (n, S) of the scans of each class; label (n,), NaN where
    missing. Of a class that no scan has, the mean of all."""
    rows = [probabilities[label == number] for number in range(classes)]
    return torch.stack([row.mean(0) if len(row) else probabilities.mean(0) for row in rows])


def _seen(beginning: Beginning) -> tuple[Tensor, list[Tensor]]:
    """Features (n, F) of all training scans by the encoder as it is, in evaluation mode, and their labels."""
    before = FrozenEncoder(beginning.network)
    parts = [(before(images), labels) for images, labels in beginning.batches()]
    labels = [torch.cat(each) for each in zip(*(labels for _, labels in parts))]
    return torch.cat([features for features, _ in parts]), labels
