"""What terms of an objective are, and what they are shown of training."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, nn

from tlimb.architectures.network import Network, Passed
from tlimb.data.augment.mixup import Mixed
from tlimb.data.targets import Target


@dataclass
class Step:
    """One batch on its way through training, as terms see it.

    network: encoder and heads. images: (B, C, ...), augmented; labelled scans first, then unlabelled ones (those of the
    other domain where a stage has `source` and `target`). labels: of the labelled scans, one tensor (B1,) or
    (B1, classes) a target in the order of the stage, NaN where missing; `Mixed` after MixUp. columns: label column ->
    (B,) of all images: the number of a class or a standardised quantity, NaN where missing. labelled: how many images
    have labels, B1. progress: 0 at the first step of training, 1 at the last one. epoch: counted from 1. training:
    False on the validation part. featured: `images` are features (B, F) of a frozen encoder. whole: the pass takes
    unlabelled images too. seen: what is done to images before the pass, for a primary term that hides parts of them.
    names: of the heads that the pass takes, all where None. shares: what `tlimb.scenarios.parts` says of a batch whose
    gradient is added to those of others: target -> how much its mean loss counts beside the batch's labelled scans.
    """

    network: Network
    images: Tensor
    labels: list[Tensor] | Mixed
    columns: dict[str, Tensor] = field(default_factory=dict)
    labelled: int = 0
    progress: float = 0.0
    epoch: int = 1
    training: bool = True
    featured: bool = False
    whole: bool = False
    seen: Callable[[Tensor], Tensor] | None = None
    names: tuple[str, ...] | None = None
    shares: dict[str, float] | None = None

    @property
    def labelled_images(self) -> Tensor:
        """(B1, C, ...)."""
        return self.images[: self.labelled]

    @property
    def unlabelled_images(self) -> Tensor:
        """(B - B1, C, ...)."""
        return self.images[self.labelled :]

    @cached_property
    def passed(self) -> Passed:
        """The network's features and outputs, computed once, when first asked for: of all images where `whole`, else of
        the labelled ones, or of all in a stage without labels."""
        images = self.images if self.whole else self.labelled_images
        images = images if self.seen is None else self.seen(images)
        network = self.network
        return network.passed_features(images, self.names) if self.featured else network.passed(images, self.names)

    @property
    def outputs(self) -> dict[str, Tensor]:
        """Head -> what it makes of the labelled images, (B1, ...)."""
        return {name: output[: self.labelled] for name, output in self.passed.outputs.items()}

    @property
    def unlabelled_outputs(self) -> dict[str, Tensor]:
        """Head -> what it makes of the unlabelled images; needs `sees_unlabelled` of some term."""
        return {name: output[self.labelled :] for name, output in self.passed.outputs.items()}

    @property
    def features(self) -> Tensor:
        """The encoder's features of the labelled images, (B1, F), before any dropout."""
        return self.passed.features[: self.labelled]

    @property
    def unlabelled_features(self) -> Tensor:
        """The encoder's features of the unlabelled images; needs `sees_unlabelled` of some term."""
        return self.passed.features[self.labelled :]


@dataclass(frozen=True)
class Beginning:
    """What a term may look at once, before training.

    network: with its weights as training starts from them, on the CPU. pretrained: whether its encoder has weights from
    elsewhere. targets: of the stage. columns: those of the columns that terms ask for. batches: called, it gives the
    training scans that have labels once, in their order and without augmentation, as (images, labels) on the CPU; may
    be costly. source_heads: target of the stage before -> its head's tensors; source_targets: those targets. fisher:
    parameter of the encoder -> the diagonal of its Fisher information there, where that stage kept it. input_shape:
    (C, ...) of an image. total_steps: of the whole training. trusted: modules beyond
    the usual ones whose classes may be used. source_temperatures: target of the stage before -> what its head's outputs
    are divided by to be calibrated.
    """

    network: Network
    pretrained: bool = False
    targets: tuple[Target, ...] = ()
    columns: tuple[Target, ...] = ()
    batches: Callable[[], Iterable[tuple[Tensor, list[Tensor]]]] | None = None
    source_targets: tuple[Target, ...] = ()
    source_heads: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    fisher: dict[str, Tensor] | None = None
    input_shape: tuple[int, ...] = ()
    total_steps: int = 1
    trusted: tuple[str, ...] = ()
    source_temperatures: dict[str, float] = field(default_factory=dict)


class Term(nn.Module):
    """A term of the sum that training minimises; one of your own overrides `forward` and what else it needs.

    Class attributes, plain values that are read before anything is imported:
    needs: what it cannot do without: "pretrained" (weights to start from), "whole" (all of the encoder is pretrained:
    no new blocks, adapters or parts), "unlabelled" (a second set of scans: `data.unlabelled` or `data.target`),
    "target" (one or more), "targets" (two or more), "moving" (an encoder that trains), "fisher" (kept by the stage
    before), "tokens" (an encoder that can pass some patches alone), "source_head" (a head of classes or bins in the
    stage before), "column" (its argument `column` names a label column).
    sees_unlabelled: the pass of a step takes unlabelled images too, for `unlabelled_outputs` and `unlabelled_features`.
    on_images: it learns from images alone, and may be the primary term of a stage without targets.
    heads: name -> {"class_path", "init_args"} of heads that it asks for beside those of the targets.
    own_pass: it passes images through its heads by itself, so that as an auxiliary term it finds no outputs of them in
    `Step.outputs`; an instance may say otherwise than its class.
    on_features: it looks at no images and no maps, so that features of a frozen encoder may stand for the images.
    default_weight: its weight in the sum where the sweep says none.

    It may have a method `around_pass(step)`, a context manager in which the step's pass is made, to look at layers.

    What it keeps between steps belongs into buffers or modules: they move to the device, are saved with the state of
    training, and parameters with a gradient are trained beside the network's.
    """

    needs: tuple[str, ...] = ()
    sees_unlabelled = False
    on_images = False
    on_features = False
    own_pass = False
    heads: dict[str, dict] = {}
    default_weight = 1.0

    def start(self, beginning: Beginning) -> None:
        """Called once, before training, with torch's generator set by the trial's seed and the term's name."""

    def forward(self, step: Step) -> Tensor:
        """The term's value, a scalar, without its weight."""
        raise TypeError(f"{type(self).__name__} does not say what its value is")

    def after_step(self, network: Network) -> None:
        """Called after each step of the optimiser, without gradients."""
