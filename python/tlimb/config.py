"""What a user writes in a sweep, as typed models; errors carry the JSON path and the nearest valid name."""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from tlimb.errors import InputError, Problem
from tlimb.evaluate_settings import Evaluate
from tlimb.parse import parse
from tlimb.search_settings import Search
from tlimb.settings import ONE_OR_SEVERAL, Count, Index, Names, Settings, plain

PIPELINE_KEYS = frozenset(
    "state_dir trials_per_task chunk_size max_failed_scans trusted_modules study plan preset help".split()
)
"""Parameters of the pipeline that may stand in a sweep file beside the sweep's own keys."""

def _share_or_count(value: float) -> float:
    """A share as a fraction or a number of persons as a whole number; raises ValueError for others."""
    if value <= 0 or (isinstance(value, float) and value >= 1):
        raise ValueError("expected a share between 0 and 1 or a whole number of persons")
    return value


ShareOrCount = Annotated[int | float, AfterValidator(_share_or_count)]
Percentile = Annotated[float, Field(ge=0, le=100)]


class ClassSpec(Settings):
    """A class by its short name or full import path, with the arguments the user sets."""

    class_path: str
    init_args: dict = {}


class Recipe(Settings):
    """Named preprocessing settings of images; spacing in mm, shape in voxels.

    Steps in their order: `orientation` (axes to RAS), `bias_field` (N4), `registration` to the template (degrees of
    freedom: affine 12, affine9 9, similarity 7, rigid 6), `resampling` to the template's grid, `mask`, `intensity`.
    With `resampling` none a scan keeps its own voxels, which must be `spacing` mm wide, and is cropped or padded about
    its centre to `shape`; with every other step off as well, prepared scans pass through with checks alone.
    """

    kind: Literal["volume"] = "volume"
    spacing: Annotated[float, Field(ge=0.5, le=8)] = 2.0
    shape: Annotated[list[Count], Field(min_length=3, max_length=3)] | None = None
    orientation: bool = True
    bias_field: bool = False
    registration: Literal["affine", "affine9", "similarity", "rigid", "none"] = "affine"
    resampling: Literal["linear", "bspline", "nearest", "none"] = "linear"
    mask: Literal["template", "own", "learned", "none"] = "template"
    intensity: Literal["zscore", "minmax", "percentile", "none"] = "zscore"
    percentiles: Annotated[list[Percentile], Field(min_length=2, max_length=2)] = [1.0, 99.0]

    @model_validator(mode="after")
    def _sensible(self):
        if self.resampling == "none" and self.registration != "none":
            raise ValueError('registration needs resampling; expected registration "none" where resampling is "none"')
        if self.resampling == "none" and self.shape is None:
            raise ValueError('shape is missing; where resampling is "none" nothing else says how large arrays are')
        if self.resampling != "none" and not self.orientation:
            raise ValueError('orientation can be false only where resampling is "none"')
        if self.resampling == "none" and self.mask == "template":
            raise ValueError('mask "template" needs resampling to the template; expected "own", "learned" or "none"')
        if self.percentiles[0] >= self.percentiles[1]:
            raise ValueError("percentiles: expected the lower one first")
        return self


class SeriesRecipe(Settings):
    """Named preprocessing settings of fMRI time series: 4D images averaged over an atlas, or parcellated tables.

    atlas: a short name or the path of a label image; tables have their own regions. timepoints: kept of each scan, from
    its start; shorter scans fail. tr: seconds between time points, needed for tables that are filtered.
    band_pass: lowest and highest frequency kept, in Hz. confounds: columns of a scan's confounds table to regress out.
    """

    kind: Literal["series"]
    atlas: str = "blocks"
    timepoints: Annotated[int, Field(ge=8)] = 100
    tr: Annotated[float, Field(gt=0)] | None = None
    detrend: bool = True
    band_pass: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)] | None = None
    confounds: list[str] = []
    standardise: Literal["zscore", "percent_change", "none"] = "zscore"

    @field_validator("band_pass")
    @classmethod
    def _rising(cls, band: list[float] | None) -> list[float] | None:
        if band is not None and band[0] >= band[1]:
            raise ValueError("expected the lower frequency first")
        return band


def _kind_of_recipe(value) -> str:
    return value.get("kind", "volume") if isinstance(value, dict) else getattr(value, "kind", "volume")


AnyRecipe = Annotated[
    Annotated[Recipe, Tag("volume")] | Annotated[SeriesRecipe, Tag("series")], Discriminator(_kind_of_recipe)
]


Where = dict[str, Annotated[list[str], ONE_OR_SEVERAL, Field(min_length=1)]]
"""Label column of classes -> the classes wanted, as text."""


class Labelled(Settings):
    """The labelled scans of a stage: cohorts, modalities (all that the recipe's kind can take where null), an optional
    number of persons drawn from them, and what to do with a scan that lacks a needed label: `drop` leaves it out,
    `mask` keeps it where it has another target, which alone it counts for. where: only scans of these classes."""

    cohort: Names
    modality: Names | None = None
    where: Where = {}
    n: Count | None = None
    missing: Literal["error", "drop", "mask"] = "error"


class Unlabelled(Settings):
    """Scans that are learned from without labels: cohorts, modalities, an optional number of persons. where: only scans
    of these classes."""

    cohort: Names
    modality: Names | None = None
    where: Where = {}
    n: Count | None = None


class Hooks(Settings):
    """Functions by import path, called with a batch (images, labels) on its way to the device; each returns a batch."""

    on_before_batch_transfer: str | None = None
    on_after_batch_transfer: str | None = None


class Data(Settings):
    """The data of a stage: who, preprocessed how, drawn in which order, normalised, augmented and presented how.

    labelled: the scans of a stage with targets. unlabelled: those of one without; beside `labelled`, more scans that
    train without labels. source, target: labelled scans of one domain and scans of another, to which the network is to
    be adapted without labels: it is selected on people of the source and tested on people of the target. normalise:
    fitted on the training scans and saved with the model. augment: applied to training batches on the device, in this
    order.
    """

    labelled: Labelled | None = None
    unlabelled: Unlabelled | None = None
    source: Labelled | None = None
    target: Unlabelled | None = None
    recipe: str = "default"
    module: ClassSpec = ClassSpec(class_path="BaseDataModule")
    dataset: ClassSpec = ClassSpec(class_path="ScanDataset")
    sampler: ClassSpec | None = None
    normalise: ClassSpec | None = None
    augment: list[ClassSpec] = []
    hooks: Hooks = Hooks()

    @model_validator(mode="after")
    def _roles(self):
        if (self.source is None) != (self.target is None):
            raise ValueError("expected `source` and `target`, both of them or none")
        if self.source is not None and (self.labelled is not None or self.unlabelled is not None):
            raise ValueError("expected `labelled` and `unlabelled`, or `source` and `target`, not both pairs")
        if self.source is None and self.labelled is None and self.unlabelled is None:
            raise ValueError("expected `labelled`, `unlabelled` or both, or `source` and `target`")
        return self


class Bins(Settings):
    """Bins of a quantity over [low, high], each `width` wide, in the label's unit; a label becomes a normal
    distribution of standard deviation `sigma` over them. low, high: of the training labels where null."""

    low: float | None = None
    high: float | None = None
    width: Annotated[float, Field(gt=0)] = 1.0
    sigma: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _rising(self):
        if self.low is not None and self.high is not None and self.low + self.width > self.high:
            raise ValueError("expected `high` to be at least one width above `low`")
        return self


class HeadSpec(ClassSpec):
    """A head: its form by short name or import path, that which the network prefers (mostly linear) where null; bins
    make the head of a quantity a soft-bin one."""

    class_path: str | None = None
    bins: Bins | None = None


class Weights(Settings):
    """Published weights that a stage starts from.

    path: a file, or a folder of tlimb or of a MONAI bundle; the encoder of the stage before where null. map: how their
    names are translated: the name of a ready map, the path of a JSON file, or pairs of pattern and replacement;
    recognised by itself where null. part: the submodule of the encoder that they are for. minimum: the least share of
    that part's parameters that must come from the file.
    """

    path: str | None = None
    map: str | dict[str, str | None] | None = None
    part: str | None = None
    minimum: Annotated[float, Field(gt=0, le=1)] = 0.9


class Unfreezing(Settings):
    """From epoch `epoch` (counted from 1) on, everything from `block` on trains."""

    epoch: Count
    block: str


class Average(Settings):
    """The weights that are validated and kept are a running mean of those trained.

    ema: exponential, with `decay` a step. swa: of the ends of all epochs from `start` (counted from 1) on.
    """

    kind: Literal["ema", "swa"]
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    start: Count = 1


class Tuning(Settings):
    """Which of the weights that a stage starts from are changed, when and how fast. Blocks are those that
    `tlimb list architectures` shows, or any submodule of them.

    freeze_up_to: everything before this block stays as it is. head_first: epochs in which the heads alone train.
    unfreeze: a number of epochs after which one more block trains, from the last to the first, or a list of epochs and
    blocks. layer_decay: the learning rate of a block is this times that of the next one. only: the parameters of the
    encoder that train: biases (BitFit), or scales and shifts of normalisation. adapter: small trainable parts beside
    fixed weights, merged into them in the end. reinitialise: the last so many blocks start anew. average: what is kept.
    """

    freeze_up_to: str | None = None
    head_first: Index = 0
    unfreeze: Count | list[Unfreezing] | None = None
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    only: Literal["bias", "norm"] | None = None
    adapter: ClassSpec | None = None
    reinitialise: Index = 0
    average: Average | None = None
    stochnorm: Annotated[float, Field(gt=0, le=1)] | None = None


class Ramp(Settings):
    """A weight that moves from `start` to `end` in the first share `until` of all training steps, and stays there.

    With x from 0 at the first step to 1 at the end of that share, the weight is start + (end - start) f(x):
    linear: f = x. cosine: f = (1 - cos(pi x)) / 2. sigmoid: f = exp(-5 (1 - x)^2), which begins at 0.0067 (Laine, Aila
    2017). dann: f = 2 / (1 + exp(-10 x)) - 1, which ends at 0.9999 (Ganin et al. 2016). step: f = 0 before the end of
    that share, then 1.
    """

    ramp: Literal["linear", "cosine", "sigmoid", "dann", "step"] = "linear"
    start: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    end: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    until: Annotated[float, Field(gt=0, le=1)] = 1.0


def _kind_of_weight(value) -> str:
    return "ramp" if isinstance(value, (dict, Ramp)) else "number"


Weight = Annotated[
    Annotated[float, Field(ge=0, allow_inf_nan=False), Tag("number")] | Annotated[Ramp, Tag("ramp")],
    Discriminator(_kind_of_weight),
]


class TermSpec(ClassSpec):
    """An auxiliary term: its class, and its weight in the sum, a number or a ramp; the class's usual one where null."""

    weight: Weight | None = None


def _kind_of_primary(value) -> str:
    each = isinstance(value, dict) and "class_path" not in value
    return "each" if each else "one"


Primary = Annotated[
    Annotated[ClassSpec, Tag("one")] | Annotated[dict[str, ClassSpec], Tag("each")], Discriminator(_kind_of_primary)
]


class Objective(Settings):
    """One primary term and any number of auxiliary ones.

    primary: one loss for all targets, or one for each by its name; of a target that is not named, and where null, the
    usual one of its kind. primary_weight: of the primary term in the sum. combine: how the losses of several targets
    become one, their mean where null.
    """

    primary: Primary | None = None
    primary_weight: Weight = 1.0
    combine: ClassSpec | None = None
    auxiliary: list[TermSpec] = []


class Trainer(Settings):
    """How a stage is trained by Lightning.

    precision: 32 bits, or bfloat16 or float16 where that is safe and 32 bits elsewhere. accumulate: batches whose
    gradients are added up for a step. max_hours: training ends after the epoch in which this time is reached, with what
    is best then. devices: processes, each with a GPU of its own where there are GPUs; each is given its part of every
    batch. strategy: whole copies of the network on each device (ddp), or its parts (fsdp). deterministic: the same
    numbers on each run of a GPU. keep: the weights of the best epoch by `monitor`, or of the last one.
    """

    precision: Literal["32", "bf16", "16"] = "32"
    accumulate: Count = 1
    max_hours: Annotated[float, Field(gt=0)] | None = None
    devices: Count = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"
    deterministic: bool = True
    keep: Literal["best", "last"] = "best"


class EarlyStopping(Settings):
    """Stop after `patience` epochs without an improvement of the monitored value by more than `min_delta`."""

    patience: Count = 5
    min_delta: Annotated[float, Field(ge=0)] = 0.0


class Split(Settings):
    """How persons are divided into training, validation and test.

    `validation` and `test` are shares of all persons or numbers of them. Schemes:
    holdout: both drawn at random. kfold: test is one of `folds` parts, validation drawn from the rest. nested: test is
    one of `folds` parts, validation one of `inner_folds` parts of the rest. site: test is everybody with one value of
    the label `column` (or with any of `held_out`), validation drawn from the rest. file: `file` gives each person's
    role.
    `stratify` names labels whose proportions the parts keep; `n` is the number of training persons kept after
    splitting; `replicates` training samples of `n` persons are drawn with replacement while validation and test stay.
    `repeats`, `folds`, `inner_folds` and `replicates` are all run unless `repeat`, `fold`, `inner_fold` or `replicate`
    picks one, counted from 0.
    """

    scheme: Literal["holdout", "kfold", "nested", "site", "file"] = "holdout"
    validation: ShareOrCount = 0.2
    test: ShareOrCount = 0.2
    stratify: list[str] = []
    seed: int = 0
    repeats: Count = 1
    repeat: Index | None = None
    folds: Annotated[int, Field(ge=2)] = 5
    fold: Index | None = None
    inner_folds: Annotated[int, Field(ge=2)] = 3
    inner_fold: Index | None = None
    column: str = "site"
    held_out: Names | None = None
    file: str | None = None
    n: Count | None = None
    replicates: Count | None = None
    replicate: Index | None = None


class Stage(Settings):
    """One training: data, targets with their heads, what it starts from, objective, schedule.

    architecture: of a stage before the last, where it is not the sweep's. strategy: scratch ignores what the stage
    could start from, direct trains nothing, frozen trains the heads alone, full everything that `tuning` leaves.
    scenario: how batches are made of the stage's scans and trained on; Simultaneous where there are two sets of scans,
    else Sequential. callbacks: Lightning's or your own. fisher: of a stage before the last, keep what the term EWC of
    the next one needs.
    """

    name: str
    targets: Annotated[list[str], ONE_OR_SEVERAL] = []
    architecture: ClassSpec | None = None
    heads: dict[str, HeadSpec] = {}
    weights: Weights | None = None
    epochs: Count
    data: Data
    batch_size: Count = 16
    strategy: Literal["scratch", "direct", "frozen", "full"] | None = None
    tuning: Tuning = Tuning()
    objective: Objective = Objective()
    optimizer: ClassSpec = ClassSpec(class_path="AdamW", init_args={"lr": 1e-3})
    scheduler: ClassSpec | None = None
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    scenario: ClassSpec | None = None
    trainer: Trainer = Trainer()
    callbacks: list[ClassSpec] = []
    fisher: bool = False
    early_stopping: EarlyStopping | None = None
    monitor: str = "validation_loss"
    split: Split | None = None
    disjoint: bool = False

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        return plain(name)


LabelKind = Literal["regression", "classification", "ordinal", "multilabel", "survival"]


class LabelSpec(Settings):
    """What a label column holds. classes: their order for `ordinal`, their names for `multilabel` (cells hold several
    with ';' between them). event: for `survival`, the column that says whether the event happened (1) or was not seen
    until then (0); the label itself is the time."""

    kind: LabelKind
    classes: Annotated[list[str], Field(min_length=2)] | None = None
    event: str | None = None

    @model_validator(mode="after")
    def _sensible(self):
        if (self.kind == "survival") != (self.event is not None):
            raise ValueError("expected `event`, a column, for the kind survival, and for no other")
        if self.classes is not None and self.kind not in ("ordinal", "multilabel", "classification"):
            raise ValueError(f"kind {self.kind} has no classes; leave `classes` out")
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise ValueError("classes are repeated; expected distinct names")
        return self


def _label_spec(value):
    return {"kind": value} if isinstance(value, str) else value


Label = Annotated[LabelSpec, BeforeValidator(_label_spec, json_schema_input_type=LabelKind | LabelSpec)]


class Sweep(Settings):
    """The whole document: cohorts, preprocessing, the base trial and the space around it. licence: of the weights that
    the run makes, said in their files."""

    input: str
    label_tables: Annotated[list[str], ONE_OR_SEVERAL] = []
    outdir: str = "results"
    licence: str | None = None
    labels: dict[str, Label] = {}
    recipes: Annotated[dict[Annotated[str, AfterValidator(plain)], AnyRecipe], Field(min_length=1)] = {
        "default": Recipe()
    }
    architecture: ClassSpec = ClassSpec(class_path="ResNet")
    stages: Annotated[list[Stage], Field(min_length=1, max_length=4)]
    split: Split = Split()
    evaluate: Evaluate = Evaluate()
    search: Search = Search()

    @field_validator("stages")
    @classmethod
    def _unique(cls, stages: list[Stage]) -> list[Stage]:
        names = [stage.name for stage in stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stage names are repeated: {', '.join(names)}")
        return stages


class TrialBase(Settings):
    """The part of a sweep that a point of the search space fixes."""

    architecture: ClassSpec
    stages: list[Stage]
    split: Split


def read_sweep(document, where: str = "sweep") -> Sweep:
    """A sweep from its JSON document (a dict); pipeline parameters beside its keys are passed over."""
    if not isinstance(document, dict):
        raise InputError([Problem(where, f"expected a JSON object, found {type(document).__name__}")])
    return parse(Sweep, {key: value for key, value in document.items() if key not in PIPELINE_KEYS})


def sweep_schema() -> dict:
    """The JSON Schema of a sweep, as it stands in assets/schemas/sweep.schema.json."""
    schema = Sweep.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "tlimb sweep", **schema}
