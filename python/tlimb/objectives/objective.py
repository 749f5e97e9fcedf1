"""The sum that training minimises: a primary term over all targets, and auxiliary terms."""

import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from inspect import signature
from math import inf

import torch
from torch import Tensor, nn

from tlimb import registry
from tlimb.architectures.arguments import require_given
from tlimb.architectures.network import Network
from tlimb.architectures.size_check import kept_generator
from tlimb.data.augment.mixup import Mixed
from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem, nearest
from tlimb.objectives.ramp import weight_at
from tlimb.objectives.soft_bins import SoftBins
from tlimb.objectives.term import Beginning, Step, Term
from tlimb.seeds import seed_for

USUAL = {
    "regression": "MeanSquaredError",
    "classification": "CrossEntropy",
    "ordinal": "Ordinal",
    "multilabel": "MultiLabel",
    "survival": "Cox",
}
"""Kind of a target -> its loss where the sweep names none and its head has no bins."""

RESERVED = ("primary", "loss", "combine")
"""Names that mean something else among the terms and in the history; a term of a class called so is the second one."""


class Objective(nn.Module):
    r"""w_0 primary + sum_k w_k auxiliary_k; weights are numbers, or ramps over the training.

    The primary term of a target is the mean over its labelled scans of the loss that the sweep names, or of the usual
    one of its kind; of `Cox` it is the mean over the events that were seen. A missing label (NaN) counts nowhere. Where
    classes have weights, c(y) is that of class y, and the mean is sum_i L(out_i, y_i) / sum_i c(y_i), in which L holds
    its weights already; else c is 1. Over several targets the primary term is the mean of those of which a scan of the
    batch has a label, or what `combine` makes of them.

    A batch whose gradient is added to those of others brings its part of their common means: each target's loss counts
    as `Step.shares` says, and the targets are those of which a scan of any of the batches has a label. A `combine` is
    given these losses where it is `additive` (its values for the batches add up), else the batch's own means.

    A term whose weight is 0 in a step is not computed in it, so that it changes nothing.

    After MixUp a scan has two labels a and b and weighs lambda L(out, a) + (1 - lambda) L(out, b): the mean is

        sum_i [lambda_i k(a_i) L(out_i, a_i) + (1 - lambda_i) k(b_i) L(out_i, b_i)] min(1, S) / C,
        S = sum_i [lambda_i k(a_i) + (1 - lambda_i) k(b_i)],    k = 1 where a label is known, else 0,
        C = sum_i [lambda_i k(a_i) c(a_i) + (1 - lambda_i) k(b_i) c(b_i)],

    and the mean over known labels where every lambda is 1. Zhang et al. (2018), "mixup: Beyond empirical risk
    minimization", ICLR.

    last: of a stage with several targets, target -> (mean loss, how many scans it is a mean over) in the last batch
    that was trained on, without those of which no scan has a label.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        losses: dict[str, nn.Module],
        auxiliary: dict[str, tuple[nn.Module, float | dict]],
        on_images: nn.Module | None = None,
        primary_weight: float | dict = 1.0,
        combine: nn.Module | None = None,
    ):
        """losses: target -> loss(output, label) -> (B,). auxiliary: name -> term and weight."""
        super().__init__()
        self.targets = list(targets)
        self.losses = nn.ModuleList(losses[target.name] for target in targets if target.name in losses)
        self._on_images, self.combine, self.primary_weight = on_images, combine, primary_weight
        self.names = list(auxiliary)
        self.auxiliary = nn.ModuleList(term for term, _ in auxiliary.values())
        self.weights = [weight for _, weight in auxiliary.values()]
        self.last: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def on_images(self) -> nn.Module | None:
        """The primary term where it looks at images and not at labels, such as Reconstruction; else None."""
        return self._on_images

    @property
    def terms(self) -> dict[str, nn.Module]:
        """Every term of the form of `tlimb.objectives.term.Term` by its name, the primary one first if it is such."""
        first = {} if self._on_images is None else {"primary": self._on_images}
        return first | dict(zip(self.names, self.auxiliary))

    def heads(self, given: Iterable[str] | None = None) -> dict[str, dict]:
        """Heads that the terms need beside those of the targets: name -> {"class_path", "init_args"}.

        given: names that the stage's own `heads` has, if these are known. Then raises InputError where two terms ask
        for different heads of another name, which they would share.
        """
        asked, first, problems = {}, {}, []
        for term in self.terms.values():
            for name, spec in getattr(term, "heads", {}).items():
                if asked.setdefault(name, spec) != spec and given is not None and name not in given:
                    message = f"{first[name]} and {type(term).__name__} ask for different ones, and would share it"
                    problems.append(Problem(f"heads.{name}", message, "leave out one of the two, or set this head"))
                first.setdefault(name, type(term).__name__)
        if problems:
            raise InputError(problems)
        return asked

    def passed_heads(self) -> tuple[str, ...]:
        """Heads that a step's pass takes: those of the targets, of the primary term, and of the auxiliary terms that do
        not pass theirs by themselves."""
        terms = [term for name, term in self.terms.items() if name == "primary" or not getattr(term, "own_pass", False)]
        names = [name for term in terms for name in getattr(term, "heads", {})]
        return tuple(dict.fromkeys([*(target.name for target in self.targets), *names]))

    def columns(self) -> list[str]:
        """Label columns that the terms look at, each once."""
        asked = [getattr(term, "column", None) for term in self.terms.values()]
        return list(dict.fromkeys(name for name in asked if name is not None))

    def start(self, beginning: Beginning, seed: int) -> None:
        """Show every term, and `combine`, the network as training starts from it; what each draws follows from the seed
        and its name."""
        for name, term in (self.terms | ({"combine": self.combine} if self.combine is not None else {})).items():
            if hasattr(term, "start"):
                with kept_generator():
                    torch.manual_seed(seed_for(seed, "term", name))
                    term.start(beginning)

    def sees_unlabelled(self, progress: float) -> bool:
        """Whether the pass of a step takes unlabelled images, for a term that has a weight then."""
        weighted = {"primary": self.primary_weight} | dict(zip(self.names, self.weights))
        return any(
            getattr(term, "sees_unlabelled", False) and weight_at(weighted[name], progress) > 0
            for name, term in self.terms.items()
        )

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Term name -> its value times its weight; training minimises the sum, "primary" stands first.

        What a term draws follows from torch's generator as it is set for the batch, and from the term's name.
        """
        values, noise, self.last = {}, torch.initial_seed(), {}
        planned = zip(self.names, self.auxiliary, self.weights)
        now = [(name, term, weight_at(weight, step.progress)) for name, term, weight in planned]
        terms = [(name, term, weight) for name, term, weight in now if weight > 0]
        _watch([term for _, term, _ in terms if hasattr(term, "around_pass")], step)
        weight = weight_at(self.primary_weight, step.progress)
        if weight > 0:
            values["primary"] = weight * (self._of_images(step) if self._on_images else self._of_targets(step))
        for name, term, weight in terms:
            torch.manual_seed(seed_for(noise, name))
            values[name] = weight * _scalar(term(step), term)
        return values or {"primary": _nothing([step.passed.features, *step.passed.outputs.values()])}

    def after_step(self, network: Network) -> None:
        """Called after each step of the optimiser."""
        for term in self.terms.values():
            if hasattr(term, "after_step"):
                term.after_step(network)

    def _of_images(self, step: Step) -> Tensor:
        return _scalar(self._on_images(step), self._on_images)

    def _of_targets(self, step: Step) -> Tensor:
        """The primary term in training, where targets are learned."""
        means = self._means(step.outputs, step.labels)
        if len(self.targets) > 1:
            self.last = {name: (mean.detach(), scans.detach()) for name, (mean, scans) in means.items()}
        losses = {name: mean for name, (mean, _) in means.items()}
        if step.shares is not None and (self.combine is None or getattr(self.combine, "additive", False)):
            absent = {name: _nothing([step.outputs[name]]) for name in step.shares if name not in losses}
            losses = {name: (losses | absent)[name] * share for name, share in step.shares.items()}
        if self.combine is None or not losses:
            return self._mean(losses, step.outputs)
        torch.manual_seed(seed_for(torch.initial_seed(), "combine"))
        return _scalar(self.combine(losses, step), self.combine) + self._without(losses, step.outputs)

    def primary(self, outputs: dict[str, Tensor], labels: list[Tensor] | Mixed) -> Tensor:
        """The primary term of outputs {target: (B, outputs)} and labels, one (B,) or (B, classes) a target with NaN
        where missing, as it is measured on the validation part. Raises InputError where times until an event were
        mixed."""
        losses = self.each(outputs, labels)
        if losses and hasattr(self.combine, "measured"):
            return self.combine.measured(losses)
        return self._mean(losses, outputs)

    def each(self, outputs: dict[str, Tensor], labels: list[Tensor] | Mixed) -> dict[str, Tensor]:
        """Target -> the mean loss over its labelled scans, a scalar; without those of which no scan has a label."""
        return {name: mean for name, (mean, _) in self._means(outputs, labels).items()}

    def counts(self, labels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Target -> what each scan counts in its mean loss, (n,) in 64 bits on the CPU, by the labels of `primary`."""
        found = {}
        for target, loss, label in zip(self.targets, self.losses, labels):
            label = label.to(next(loss.buffers(), label).device)
            known = torch.where(_uncounted(target, label), 0.0, 1.0)
            wanted = _label_as_losses_want(target, label.nan_to_num(0.0))
            found[target.name] = _counted(loss, wanted, known).cpu().double()
        return found

    def _means(self, outputs, labels) -> dict[str, tuple[Tensor, Tensor]]:
        """Target -> the mean loss over its labelled scans, and how many these are."""
        found = {}
        for place, (target, loss) in enumerate(zip(self.targets, self.losses)):
            losses, counted, scans = 0.0, 0.0, 0.0
            for label, weight in _weighted(target, labels, place):
                known = torch.where(_uncounted(target, label), 0.0, weight)
                output, wanted = _as_losses_want(target, outputs[target.name], label.nan_to_num(0.0))
                each = _of_scans(loss(output, wanted), loss, len(label))
                losses = losses + torch.where(known > 0, known * each, 0.0).sum()
                counted = counted + _counted(loss, wanted, known).sum()
                scans = scans + known.sum()
            if counted > 0:
                found[target.name] = losses / counted * scans.clamp(max=1), scans
        return found

    def _mean(self, losses: dict[str, Tensor], outputs: dict[str, Tensor]) -> Tensor:
        mean = sum(losses.values()) / len(losses) if losses else 0.0
        return mean + self._without(losses, outputs)

    def _without(self, losses: dict[str, Tensor], outputs: dict[str, Tensor]) -> Tensor | float:
        """0, with a gradient of 0 for targets that have no loss in this batch."""
        return _nothing([outputs[target.name] for target in self.targets if target.name not in losses])


def _watch(terms: Sequence[nn.Module], step: Step) -> None:
    """Make the step's pass while these terms look at it, if there are any."""
    with ExitStack() as around:
        for term in terms:
            around.enter_context(term.around_pass(step))
        if terms:
            _ = step.passed


def _weighted(target: Target, labels: list[Tensor] | Mixed, place: int) -> list[tuple[Tensor, Tensor | float]]:
    """The labels of one target, each with what it weighs: one for all, or the two of mixed images."""
    if isinstance(labels, Mixed):
        if target.kind == "survival":
            message = f"times until an event have no mixture, and '{target.name}' is one"
            raise InputError([Problem("augment MixUp", message)])
        return [(labels.labels[place], labels.weight), (labels.partner[place], 1 - labels.weight)]
    return [(labels[place], 1.0)]


def _uncounted(target: Target, label: Tensor) -> Tensor:
    """Which scans the mean does not count, (B,): without a label, or in survival without an event."""
    if target.kind == "survival":
        return ~(label > 0)
    return label.isnan() if label.ndim == 1 else label.isnan().any(1)


def _counted(loss: nn.Module, label: Tensor, known: Tensor) -> Tensor:
    """What scans count in the mean of a loss, (B,): as far as their label is known, as its class does."""
    return known * loss.counted(label) if hasattr(loss, "counted") else known


def _label_as_losses_want(target: Target, label: Tensor) -> Tensor:
    return label.long() if target.kind == "classification" else label


def _as_losses_want(target: Target, output: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs in 32 bits at least, those of a quantity as (B,); numbers of classes as whole ones."""
    output = output.float() if output.dtype in (torch.bfloat16, torch.float16) else output
    label = _label_as_losses_want(target, label)
    return (output[:, 0], label) if target.kind == "regression" and not target.bins else (output, label)


def _of_scans(found: Tensor, loss: nn.Module, scans: int) -> Tensor:
    """What a loss gave as (scans,), of (scans,) or (scans, several). Raises TypeError for anything else."""
    if not isinstance(found, Tensor) or found.ndim not in (1, 2) or len(found) != scans:
        raise TypeError(f"{_path(loss)}: expected a loss for each of {scans} scans, found {_described(found)}")
    return found if found.ndim == 1 else found.mean(1)


def _scalar(found: Tensor, term: nn.Module) -> Tensor:
    """What a term gave. Raises TypeError for anything but a scalar tensor."""
    if not isinstance(found, Tensor) or found.ndim:
        raise TypeError(f"{_path(term)}: expected a scalar tensor, found {_described(found)}")
    return found


def _path(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _described(found) -> str:
    return f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else repr(found)


def _nothing(outputs: Sequence[Tensor]) -> Tensor | float:
    """0, with a gradient of 0 for all that the outputs come from: parameters without any would not be stepped."""
    return sum(output.sum() for output in outputs) * 0


def build_objective(spec: dict, targets: Sequence[Target], trusted=()) -> Objective:
    """The objective of a stage, a `tlimb.config.Objective` as a dict; `primary` is null for the usual one by kind of
    target. Auxiliary terms of weight 0 are left out.

    Raises InputError, with all problems, for classes that do not exist, arguments and weights out of their ranges,
    losses of other kinds of targets, and names of targets that the stage does not have.
    """
    on_images, problems = _on_images(spec["primary"], trusted), []
    losses = {} if on_images else _losses(spec["primary"], targets, trusted, problems)
    auxiliary = _auxiliary(spec["auxiliary"], trusted, problems)
    combine = _combination(spec["combine"], [] if on_images else targets, trusted, problems)
    problems += _weight_problems(spec["primary_weight"], "objective.primary_weight")
    if not auxiliary and _is_nothing(spec["primary_weight"]):
        problems.append(Problem("objective", "all weights are 0; nothing would be learned"))
    if problems:
        raise InputError(problems)
    return Objective(targets, losses, auxiliary, on_images, spec["primary_weight"], combine)


def _on_images(spec: dict | None, trusted) -> nn.Module | None:
    """A primary term that looks at images, which says so by `on_images`."""
    if spec is None or "class_path" not in spec:
        return None
    term = registry.load("objective", spec["class_path"], trusted)
    return _built(term, spec, "objective.primary") if getattr(term, "on_images", False) else None


def _losses(spec: dict | None, targets: Sequence[Target], trusted, problems: list[Problem]) -> dict[str, nn.Module]:
    """Target -> its loss; what is wrong is added to `problems`."""
    each, names = spec is not None and "class_path" not in spec, [target.name for target in targets]
    unknown = [name for name in spec if name not in names] if each else []
    message = "the stage has no such target"
    problems += [Problem(f"objective.primary.{name}", message, nearest(name, names)) for name in unknown]
    losses = {}
    for target in targets:
        said = spec.get(target.name) if each else spec
        where = f"objective.primary.{target.name}" if each else "objective.primary"
        try:
            losses[target.name] = _loss(said or _usual(target), target, where, trusted)
        except InputError as error:
            problems += error.problems
    return losses


def _usual(target: Target) -> dict:
    return {"class_path": "SoftBins" if target.bins else USUAL[target.kind], "init_args": {}}


def _loss(spec: dict, target: Target, where: str, trusted) -> nn.Module:
    made = registry.load("objective", spec["class_path"], trusted)
    message = _unfit(made, spec["class_path"], target)
    if message:
        raise InputError([Problem(where, message, "objective.primary takes a loss for each target by its name, too")])
    if not made.__module__.startswith("torch."):
        return _built(made, spec, where, target=target)
    if "reduction" in spec["init_args"]:
        raise InputError([Problem(f"{where}.init_args.reduction", "is always the mean over scans; leave it out")])
    return made(**spec["init_args"], reduction="none")


def _unfit(made: type, name: str, target: Target) -> str:
    """Why a class cannot be the loss of a target; empty where it can."""
    if isinstance(made, type) and issubclass(made, Term):
        return f"{name} is a term beside the losses of targets; expected it under `auxiliary`"
    if target.bins and not (isinstance(made, type) and issubclass(made, SoftBins)):
        return f"the head of '{target.name}' has bins, which are learned by a loss of their own, SoftBins"
    kinds = getattr(made, "kinds", None)
    if kinds and target.kind not in kinds:
        return f"{name} is a loss for {' and '.join(kinds)}, and '{target.name}' is of kind {target.kind}"
    return ""


def _auxiliary(specs: Sequence[dict], trusted, problems: list[Problem]) -> dict[str, tuple[nn.Module, float | dict]]:
    """Name of a term -> term and weight, without those of weight 0; what is wrong is added to `problems`."""
    terms, seen = {}, list(RESERVED)
    for place, spec in enumerate(specs):
        where = f"objective.auxiliary[{place}]"
        made = registry.load("objective", spec["class_path"], trusted)
        weight = spec.get("weight")
        weight = getattr(made, "default_weight", 1.0) if weight is None else weight
        problems += _weight_problems(weight, f"{where}.weight")
        if _is_nothing(weight):
            continue
        seen.append(registry.class_name(spec).lower())
        name = seen[-1] if seen.count(seen[-1]) == 1 else f"{seen[-1]}_{seen.count(seen[-1])}"
        try:
            terms[name] = _built(made, spec, where), weight
        except InputError as error:
            problems += error.problems
    return terms


def _combination(spec: dict | None, targets: Sequence[Target], trusted, problems: list[Problem]) -> nn.Module | None:
    if spec is None:
        return None
    if len(targets) < 2:
        message = f"{spec['class_path']} combines the losses of two or more targets, and the stage has {len(targets)}"
        problems.append(Problem("objective.combine", message, "leave it out"))
        return None
    made = registry.load("combination", spec["class_path"], trusted)
    try:
        return _built(made, spec, "objective.combine", targets=tuple(targets))
    except InputError as error:
        problems += error.problems
        return None


def _built(made: type, spec: dict, where: str, **links) -> nn.Module:
    """A module of a class, with those links that its constructor has arguments for; problems with an argument, which
    bear its name, are told by their JSON path."""
    wanted, given = signature(made).parameters, spec["init_args"]
    require_given(made, [*given, *links], f"{where}.init_args")
    try:
        return made(**given, **{name: value for name, value in links.items() if name in wanted})
    except InputError as error:
        raise InputError([_placed(problem, f"{where}.init_args", wanted) for problem in error.problems]) from None


def _placed(problem: Problem, where: str, arguments) -> Problem:
    of_argument = re.split(r"[.\[]", problem.where)[0] in arguments
    return replace(problem, where=f"{where}.{problem.where}") if of_argument else problem


def _ends(weight: float | dict) -> list[float]:
    return [weight["start"], weight["end"]] if isinstance(weight, dict) else [weight]


def _is_nothing(weight: float | dict) -> bool:
    return all(end == 0 for end in _ends(weight))


def _weight_problems(weight: float | dict, where: str) -> list[Problem]:
    return [
        Problem(where, f"expected a number of at least 0, found {end}") for end in _ends(weight) if not 0 <= end < inf
    ]
