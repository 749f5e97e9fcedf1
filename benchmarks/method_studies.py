"""What `methods.py` compares: the sweeps of assets/sweeps/methods, what their variants are called, what each claims to
beat."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Study:
    """A setting and what is compared in it.

    methods: a name for each variant of the sweep's space, in its order. baselines: what a method claims to beat, one or
    several, by the method's own name, "" for all others; a name is a method's, or <sweep>: <name> where another sweep
    has it. oracle: a method that knows what others do not, of another sweep. target: what is asked for.
    """

    setting: str
    methods: tuple[str, ...]
    baselines: dict[str, tuple[str, ...]]
    oracle: str
    target: str = "diagnosis"

    @property
    def metrics(self) -> dict[str, str]:
        """Metric -> its name in the table."""
        if self.target == "age":
            return {"mae": "mean absolute error, years", "r": "correlation"}
        return {"balanced_accuracy": "balanced accuracy", "auroc": "area under the curve"}

    @property
    def kind(self) -> str:
        """Of the target."""
        return "regression" if self.target == "age" else "classification"


def _tuned(*pretrained: str) -> tuple[str, ...]:
    """Two names for each way to pretrain: all of the network tuned, and a head on the frozen encoder."""
    return tuple(f"{how} after {name}" for name in pretrained for how in ("full", "frozen"))


STUDIES = {
    "confounded": Study(
        "A confounded label",
        (
            "no term",
            "AdversarialRemoval",
            "AdversarialRemoval within controls",
            "CorrelationPenalty",
            "CorrelationPenalty within controls",
            "CorrelationPenalty of features",
            "CorrelationPenalty by distance, of features",
            "CorrelationPenalty by distance, of features, within controls",
            "no term, last weights",
            "AdversarialRemoval within controls, last weights",
            "CorrelationPenalty within controls, last weights",
        ),
        {
            "": ("no term",),
            "no term, last weights": ("no term",),
            "AdversarialRemoval within controls, last weights": ("no term, last weights",),
            "CorrelationPenalty within controls, last weights": ("no term, last weights",),
        },
        oracle="confounded-oracle: full",
    ),
    "adaptation": Study(
        "Another site",
        ("source alone", "both sites in batch norm", "DANN", "CDAN", "MMD", "DeepCORAL", "MDD"),
        {
            "": ("source alone", "both sites in batch norm"),
            "both sites in batch norm": ("source alone",),
            "source alone": (),
        },
        oracle="adaptation-oracle: full",
    ),
    "semi-supervised": Study(
        "Many without labels",
        (
            "labelled alone",
            "all scans in batch norm",
            "Reconstruction",
            "RotationPrediction",
            "TransformConsistency",
            "MeanTeacher",
            "FixMatch",
        ),
        {"": ("labelled alone",), "Reconstruction": ("labelled alone", "all scans in batch norm")},
        oracle="all-labels: full",
    ),
    "keeping": Study(
        "Small n: keeping what was learned",
        (
            "scratch",
            "full",
            "frozen",
            "L2SP",
            "DELTA",
            "EWC",
            "FeatureDistillation",
            "FeatureDistillation of outputs",
            "BSS",
            "CoTuning",
            "StochNorm",
        ),
        {"": ("full",), "full": ("scratch",), "frozen": ("scratch",), "scratch": ()},
        oracle="all-labels: full",
    ),
    "imbalance": Study(
        "Rare patients",
        (
            "CrossEntropy",
            "CrossEntropy, balanced weights",
            "Focal",
            "Focal, balanced weights",
            "CrossEntropy, smoothed labels",
        ),
        {"": ("CrossEntropy",)},
        oracle="imbalance-oracle: full",
    ),
    "multitask": Study(
        "Several tasks",
        ("plain mean", "WeightedSum", "UncertaintyWeighting", "GradNorm", "PCGrad"),
        {"": ("multitask-alone: scratch",)},
        oracle="all-labels: scratch",
    ),
    "self-supervised": Study(
        "Pretraining without labels",
        (
            "scratch",
            *_tuned("SimCLR", "VICReg", "BarlowTwins", "BYOL", "YAware", "Reconstruction", "Reconstruction, masked"),
            *_tuned("RotationPrediction", "TransformPrediction"),
        ),
        {"": ("scratch",)},
        oracle="all-labels: scratch",
    ),
    "masked-vit": Study(
        "Masked autoencoding",
        ("scratch", *_tuned("MaskedAutoencoder")),
        {"": ("scratch",)},
        oracle="masked-vit-oracle: scratch",
    ),
    "autoencoders": Study(
        "Autoencoders",
        (
            "CAE, scratch",
            *_tuned("CAE", "CAE with L1Weights", "CAE with L1Code"),
            "SRCAE, scratch",
            *_tuned("SRCAE"),
            "VAE, scratch",
            *_tuned("VAE"),
        ),
        {"": ("CAE, scratch",)}
        | {name: ("SRCAE, scratch",) for name in _tuned("SRCAE")}
        | {name: ("VAE, scratch",) for name in _tuned("VAE")}
        | {"SRCAE, scratch": (), "VAE, scratch": ()},
        oracle="autoencoders-oracle: CAE",
    ),
    "ages": Study(
        "Losses of a quantity: age",
        ("MeanSquaredError", "MeanAbsoluteError", "Huber", "SoftBins"),
        {"": ("MeanSquaredError",)},
        oracle="ages-oracle: scratch",
        target="age",
    ),
}
