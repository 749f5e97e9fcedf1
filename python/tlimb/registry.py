"""Short names and import paths of classes: found, checked against their signature, and only then imported.

Checking reads source text, so a sweep that names torch classes is checked without importing torch.
"""

import ast
import math
from collections.abc import Collection, Iterable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from tlimb.errors import InputError, Problem, nearest
from tlimb.files import digest, file_digest
from tlimb.guards import refusals, required

SHORT_NAMES = {
    "architecture": {
        "ResNet": "tlimb.architectures.resnet.ResNet",
        "DenseNet": "tlimb.architectures.densenet.DenseNet",
        "ViT": "tlimb.architectures.vit.ViT",
        "Swin": "tlimb.architectures.swin.Swin",
        "SFCN": "tlimb.architectures.sfcn.SFCN",
        "Timm": "tlimb.architectures.timm_models.Timm",
        "SliceSet": "tlimb.architectures.slice_set.SliceSet",
        "SliceLSTM": "tlimb.architectures.slice_lstm.SliceLSTM",
        "SliceCNN": "tlimb.architectures.slice_cnn.SliceCNN",
        "CNN3D": "tlimb.architectures.cnn3d.CNN3D",
        "CAE": "tlimb.architectures.cae.CAE",
        "SRCAE": "tlimb.architectures.srcae.SRCAE",
        "VAE": "tlimb.architectures.vae.VAE",
        "CNN1D": "tlimb.architectures.cnn1d.CNN1D",
        "TemporalTransformer": "tlimb.architectures.temporal_transformer.TemporalTransformer",
        "GRU": "tlimb.architectures.gru.GRU",
        "LinearBaseline": "tlimb.architectures.baselines.LinearBaseline",
        "BoostedBaseline": "tlimb.architectures.baselines.BoostedBaseline",
    },
    "head": {
        "LinearHead": "tlimb.architectures.heads.LinearHead",
        "MLPHead": "tlimb.architectures.heads.MLPHead",
        "AttentionPoolHead": "tlimb.architectures.heads.AttentionPoolHead",
        "ProjectionHead": "tlimb.architectures.heads.ProjectionHead",
        "PredictionHead": "tlimb.architectures.heads.PredictionHead",
        "Decoder": "tlimb.architectures.decoder.Decoder",
        "UNetDecoder": "tlimb.architectures.unet_decoder.UNetDecoder",
        "PosteriorHead": "tlimb.architectures.vae.PosteriorHead",
        "CodeHead": "tlimb.architectures.decoder.CodeHead",
    },
    "adapter": {
        "LoRA": "tlimb.architectures.adapters.LoRA",
        "ParallelAdapter": "tlimb.architectures.adapters.ParallelAdapter",
    },
    "module": {
        "BaseDataModule": "tlimb.data.modules.BaseDataModule",
        "CropCenterDataModule": "tlimb.data.modules.CropCenterDataModule",
        "BioImageDataModule": "tlimb.data.bioimage.BioImageDataModule",
        "SeriesDataModule": "tlimb.data.series.SeriesDataModule",
    },
    "dataset": {
        "ScanDataset": "tlimb.data.dataset.ScanDataset",
    },
    "sampler": {
        "BalancedSampler": "tlimb.data.samplers.BalancedSampler",
        "WeightedSampler": "tlimb.data.samplers.WeightedSampler",
    },
    "normalise": {
        "HistogramStandardisation": "tlimb.data.normalise.HistogramStandardisation",
        "DatasetZScore": "tlimb.data.normalise.DatasetZScore",
    },
    "augment": {
        "RandomAffine": "tlimb.data.augment.affine.RandomAffine",
        "RandomFlip": "tlimb.data.augment.flip.RandomFlip",
        "RandomElastic": "tlimb.data.augment.elastic.RandomElastic",
        "RandomNoise": "tlimb.data.augment.noise.RandomNoise",
        "RandomBlur": "tlimb.data.augment.blur.RandomBlur",
        "RandomBiasField": "tlimb.data.augment.bias_field.RandomBiasField",
        "RandomGamma": "tlimb.data.augment.gamma.RandomGamma",
        "RandomCutout": "tlimb.data.augment.cutout.RandomCutout",
        "RandomGhosting": "tlimb.data.augment.ghosting.RandomGhosting",
        "RandomMotion": "tlimb.data.augment.motion.RandomMotion",
        "MixUp": "tlimb.data.augment.mixup.MixUp",
    },
    "objective": {
        "MeanSquaredError": "tlimb.objectives.mean_squared_error.MeanSquaredError",
        "MeanAbsoluteError": "tlimb.objectives.mean_absolute_error.MeanAbsoluteError",
        "Huber": "tlimb.objectives.huber.Huber",
        "CrossEntropy": "tlimb.objectives.cross_entropy.CrossEntropy",
        "Focal": "tlimb.objectives.focal.Focal",
        "SoftBins": "tlimb.objectives.soft_bins.SoftBins",
        "Ordinal": "tlimb.objectives.ordinal.Ordinal",
        "MultiLabel": "tlimb.objectives.multilabel.MultiLabel",
        "Cox": "tlimb.objectives.cox.Cox",
        "L2SP": "tlimb.objectives.l2sp.L2SP",
        "DELTA": "tlimb.objectives.delta.DELTA",
        "EWC": "tlimb.objectives.ewc.EWC",
        "FeatureDistillation": "tlimb.objectives.feature_distillation.FeatureDistillation",
        "BSS": "tlimb.objectives.bss.BSS",
        "CoTuning": "tlimb.objectives.co_tuning.CoTuning",
        "L1Weights": "tlimb.objectives.l1.L1Weights",
        "L1Code": "tlimb.objectives.l1.L1Code",
        "Reconstruction": "tlimb.objectives.reconstruction.Reconstruction",
        "KLDivergence": "tlimb.objectives.kl_divergence.KLDivergence",
        "MaskedAutoencoder": "tlimb.objectives.masked_autoencoder.MaskedAutoencoder",
        "SimCLR": "tlimb.objectives.simclr.SimCLR",
        "VICReg": "tlimb.objectives.vicreg.VICReg",
        "BarlowTwins": "tlimb.objectives.barlow_twins.BarlowTwins",
        "BYOL": "tlimb.objectives.byol.BYOL",
        "YAware": "tlimb.objectives.y_aware.YAware",
        "RotationPrediction": "tlimb.objectives.rotation_prediction.RotationPrediction",
        "TransformPrediction": "tlimb.objectives.transform_prediction.TransformPrediction",
        "TransformConsistency": "tlimb.objectives.transform_consistency.TransformConsistency",
        "MeanTeacher": "tlimb.objectives.mean_teacher.MeanTeacher",
        "FixMatch": "tlimb.objectives.fixmatch.FixMatch",
        "DANN": "tlimb.objectives.dann.DANN",
        "CDAN": "tlimb.objectives.cdan.CDAN",
        "MMD": "tlimb.objectives.mmd.MMD",
        "DeepCORAL": "tlimb.objectives.deep_coral.DeepCORAL",
        "MDD": "tlimb.objectives.mdd.MDD",
        "AdversarialRemoval": "tlimb.objectives.adversarial_removal.AdversarialRemoval",
        "CorrelationPenalty": "tlimb.objectives.correlation_penalty.CorrelationPenalty",
    },
    "combination": {
        "WeightedSum": "tlimb.objectives.weighted_sum.WeightedSum",
        "UncertaintyWeighting": "tlimb.objectives.uncertainty_weighting.UncertaintyWeighting",
        "GradNorm": "tlimb.objectives.gradnorm.GradNorm",
        "PCGrad": "tlimb.objectives.pcgrad.PCGrad",
    },
    "scenario": {
        "Sequential": "tlimb.scenarios.sequential.Sequential",
        "Simultaneous": "tlimb.scenarios.simultaneous.Simultaneous",
    },
    "callback": {},
    "optimizer": {
        "Adam": "torch.optim.adam.Adam",
        "AdamW": "torch.optim.adamw.AdamW",
        "SGD": "torch.optim.sgd.SGD",
    },
    "scheduler": {
        "CosineAnnealingLR": "torch.optim.lr_scheduler.CosineAnnealingLR",
        "ExponentialLR": "torch.optim.lr_scheduler.ExponentialLR",
        "StepLR": "torch.optim.lr_scheduler.StepLR",
        "WarmupCosine": "tlimb.scenarios.schedules.WarmupCosine",
    },
}
"""What a short name stands for, by the place of the sweep in which it may stand."""

TRUSTED = ("tlimb", "torch", "lightning", "monai", "timm")
"""Top-level modules whose classes may be named by import path; others need `trusted_modules`."""

GIVEN = {
    *("self", "params", "optimizer", "in_channels", "input_shape", "recipe"),
    *("encoder", "outputs", "module", "epochs"),
    *("rows", "targets", "images", "seed", "stage"),
    *("target", "training", "kept"),
}
"""Arguments that tlimb passes itself; shapes come from the data."""

FILLED = {"T_max", "total_steps"}
"""Arguments of schedulers that are the stage's number of epochs where they are left out."""

FROM_DATA = ("in_chans", "n_input_channels", "spatial_dims", "img_size")
"""Arguments of networks from elsewhere that follow from the data where they are left out."""


def locate(kind: str, class_path: str) -> str:
    """The full import path of a class named by its short name or already by its path."""
    return SHORT_NAMES[kind].get(class_path, class_path)


def class_name(spec: dict) -> str:
    """The last part of a class path: `ResNet` for `my_lab.nets.ResNet`."""
    return spec["class_path"].rsplit(".", 1)[-1]


def load(kind: str, class_path: str, trusted=()):
    """The class itself; raises InputError for an untrusted or unknown one."""
    problems = check(kind, class_path, {}, class_path, trusted)
    if problems:
        raise InputError(problems)
    module, name = locate(kind, class_path).rsplit(".", 1)
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise InputError([Problem(class_path, f"cannot be imported: {error}")]) from None


def check(kind: str, class_path: str, init_args: dict, where: str, trusted=()) -> list[Problem]:
    """The problems of a class and its arguments, found without importing it.

    kind: a key of SHORT_NAMES; where: the JSON path to report; trusted: modules beyond TRUSTED.
    """
    found = fitting(kind, class_path, init_args, where, trusted)
    return found or refused(kind, class_path, init_args, where)


def fitting(kind: str, class_path: str, init_args: dict, where: str, trusted=()) -> list[Problem]:
    """The problems of a class and of each of its arguments alone: names it takes and types. As for `check`."""
    path = locate(kind, class_path)
    if "." not in path:
        hint = nearest(class_path, SHORT_NAMES[kind])
        return [Problem(f"{where}.class_path", f"unknown {kind} '{class_path}'", hint)]
    problems = trust_problems(path, f"{where}.class_path", trusted)
    if problems:
        return problems
    try:
        definition = _definition(path)
    except SyntaxError as error:
        return [syntax_problem(f"{where}.class_path", error)]
    if definition is None and _source(path.rpartition(".")[0]) is None:
        message = f"no module {path.rpartition('.')[0]} is found"
        hint = "modules are looked for in the folder of the command and on PYTHONPATH"
        return [Problem(f"{where}.class_path", message, hint)]
    if definition is None:
        hint = "name the module in which the class is defined, as in torch.optim.sgd.SGD"
        return [Problem(f"{where}.class_path", f"no class {path} is defined", hint)]
    return _argument_problems(class_path, definition, init_args, f"{where}.init_args")


def refused(
    kind: str, class_path: str, init_args: dict, where: str, passed: dict | None = None, unknown: Collection[str] = ()
) -> list[Problem]:
    """What a class itself refuses of its arguments, as far as its source tells; not what its defaults would meet.

    passed: values of arguments that tlimb passes itself. unknown: arguments that may have other values than these.
    """
    path, problems = locate(kind, class_path), []
    for refusal in refusals(path, (passed or {}) | init_args, _with_base, unknown):
        if str(refusal) not in _usual(path):
            named = [name for name in refusal.names if name in init_args]
            found = ", ".join(f"{name} {value!r}" for name, value in refusal.names.items())
            place = f"{where}.init_args.{named[0]}" if len(named) == 1 else f"{where}.init_args"
            problems.append(Problem(place, f"{class_path}: {refusal}, found {found}"))
    return problems


@cache
def _usual(path: str) -> frozenset[str]:
    """What the class at an import path refuses of its own defaults."""
    return frozenset(map(str, refusals(path, {}, _with_base)))


def missing(kind: str, class_path: str, given: Iterable[str], where: str) -> list[Problem]:
    """A problem for each argument without a default that is neither `given` nor filled in. where: the JSON path."""
    filled = {*GIVEN, *given, *{"scheduler": FILLED, "architecture": FROM_DATA}.get(kind, ())}
    lacking = [name for name in required(locate(kind, class_path), _with_base) if name not in filled]
    return [Problem(f"{where}.init_args.{name}", f"missing; {class_path} has no default for it") for name in lacking]


def declared(kind: str, class_path: str, name: str, default=None):
    """What a class says of itself by a plain value in its body, such as ``needs = ("unlabelled",)``, read without
    importing it; `default` where it, and every base class in its module, says nothing."""
    path = locate(kind, class_path)
    classes = _classes(path)
    node = classes.get(path.rpartition(".")[2])
    while node is not None:
        for item in node.body:
            if name in _assigned(item):
                return ast.literal_eval(item.value)
        bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
        node = classes[bases[0]] if bases else None
    return default


def _assigned(item: ast.stmt) -> list[str]:
    """The names to which a statement gives a value."""
    targets = item.targets if isinstance(item, ast.Assign) else []
    targets = [item.target] if isinstance(item, ast.AnnAssign) and item.value is not None else targets
    return [target.id for target in targets if isinstance(target, ast.Name)]


def trust_problems(path: str, where: str, trusted=()) -> list[Problem]:
    """A problem where the top-level module of an import path may not be imported. trusted: modules beyond TRUSTED."""
    root = path.split(".")[0]
    if root in (*TRUSTED, *trusted):
        return []
    return [Problem(where, f"module '{root}' is not trusted", f"name it in trusted_modules to allow {path}")]


def syntax_problem(where: str, error: SyntaxError) -> Problem:
    """A file that is no Python, with its place. where: the JSON path that names the class or function in it."""
    return Problem(where, f"{error.filename}, line {error.lineno}: {error.msg}")


@cache
def statements(module: str) -> list[ast.stmt] | None:
    """The statements at the top of a module's source, read without importing it; None where there is no such module.

    Raises SyntaxError, with file and line, for a source that is no Python.
    """
    source = _source(module)
    return None if source is None else ast.parse(source.read_bytes(), filename=str(source)).body


def normaliser_key(spec: dict | None) -> tuple[str, dict] | None:
    """What decides whether two normalisers are alike: class and arguments but for `refit`; None for none."""
    if spec is None:
        return None
    arguments = {key: value for key, value in spec["init_args"].items() if key != "refit"}
    return locate("normalise", spec["class_path"]), arguments


def source_digest(module: str) -> str:
    """A digest of the source files of a top-level module or package, found without importing it; empty for none."""
    spec = find_spec(module)
    if spec is None:
        return ""
    folders = list(spec.submodule_search_locations or [])
    files = sorted(path for folder in folders for path in Path(folder).rglob("*.py")) or [Path(spec.origin or "")]
    return digest([file_digest(path) for path in files if path.is_file()])


def _argument_problems(class_path: str, parameters: dict, init_args: dict, where: str) -> list[Problem]:
    problems = []
    for name, value in init_args.items():
        if name not in parameters and "**" not in parameters:
            message = f"{class_path} takes no such argument"
            problems.append(Problem(f"{where}.{name}", message, nearest(name, parameters)))
        elif not _finite(value):
            problems.append(Problem(f"{where}.{name}", f"expected finite numbers, found {value!r}"))
        elif parameters.get(name) is not None and not _fits(value, parameters[name]):
            problems.append(Problem(f"{where}.{name}", f"expected {_in_words(parameters[name])}, found {value!r}"))
    return problems


def _finite(value) -> bool:
    """Whether no number in a JSON value is infinite or none at all."""
    if isinstance(value, dict | list):
        return all(map(_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _in_words(annotation: ast.expr) -> str:
    """An annotation for reading: the values of a Literal one by one, anything else as it is written."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        values = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        return " or ".join(filter(None, [", ".join(map(ast.unparse, values[:-1])), ast.unparse(values[-1])]))
    return ast.unparse(annotation)


@cache
def _definition(path: str) -> dict | None:
    """Parameter name -> annotation (or None) of a class's constructor, '**' standing for any name.

    """
    classes = _classes(path)
    return _parameters(classes, path.rpartition(".")[2]) if classes else None


def _classes(path: str) -> dict[str, ast.ClassDef]:
    """The classes of the module in which the class at an import path is defined, by name; none where it is nowhere."""
    return _home(path)[1]


@cache
def _home(path: str) -> tuple[str, dict[str, ast.ClassDef]]:
    """The module in which the class at an import path is defined and its classes by name; ("", {}) where it is nowhere.

    A name that its module imports from another one is looked for there, under the name that it has.
    """
    seen, wanted = set(), path.rpartition(".")[2]
    while path and path not in seen:
        seen.add(path)
        module, _, name = path.rpartition(".")
        body = statements(module) or []
        classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
        if name in classes:
            return module, classes | {wanted: classes[name]}
        path = _imported_from(module, name, body)
    return "", {}


@cache
def _with_base(path: str) -> tuple[ast.ClassDef, str] | None:
    """The definition of a class and the import path of its first base class, empty where that cannot be told."""
    module, classes = _home(path)
    if not classes:
        return None
    node = classes[path.rpartition(".")[2]]
    base = ast.unparse(node.bases[0]) if node.bases else ""
    if "." in base or not base.isidentifier():
        return node, base if base.replace(".", "").isidentifier() else ""
    return node, f"{module}.{base}" if base in classes else _imported_from(module, base, statements(module) or [])


def _imported_from(module: str, name: str, body: list[ast.stmt]) -> str:
    """The path under which a module imports a name from elsewhere; empty where it does not."""
    source = _source(module)
    package = module if source is not None and source.name == "__init__.py" else module.rpartition(".")[0]
    for node in (node for node in body if isinstance(node, ast.ImportFrom)):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        there = ".".join([*above, *filter(None, [node.module])])
        for alias in node.names:
            if name == (alias.asname or alias.name):
                return f"{there}.{alias.name}"
            if alias.name == "*" and there != module and _classes(f"{there}.{name}"):
                return f"{there}.{name}"
    return ""


def _parameters(classes: dict, name: str) -> dict:
    node = classes[name]
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            named = [*item.args.posonlyargs, *item.args.args, *item.args.kwonlyargs]
            found = {argument.arg: argument.annotation for argument in named if argument.arg not in GIVEN}
            return found | ({"**": None} if item.args.kwarg else {})
    bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
    return _parameters(classes, bases[0]) if bases else {"**": None}


def _source(module: str) -> Path | None:
    """The file of a module; only its top-level package is looked up, nothing is imported."""
    root, *rest = module.split(".")
    spec = find_spec(root)
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or [])
    if not rest:
        return Path(spec.origin) if spec.origin else None
    for place in places:
        base = Path(place, *rest)
        for candidate in (base.with_suffix(".py"), base / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def _fits(value, annotation: ast.expr) -> bool:
    """Whether a JSON value can be what an annotation says; annotations it can't read fit anything."""
    return _match(value, annotation) is not False


def _match(value, annotation) -> bool | None:
    """True or False, or None where the annotation says nothing about JSON values."""
    if isinstance(annotation, ast.Constant):
        return value is None if annotation.value is None else None
    if isinstance(annotation, ast.Name):
        return _match_name(value, annotation.id)
    if isinstance(annotation, ast.BinOp):
        sides = [_match(value, annotation.left), _match(value, annotation.right)]
        return any(side is True for side in sides) or (None if set(sides) == {None} else False)
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.value, ast.Name):
        return _match_generic(value, annotation.value.id, annotation.slice)
    return None


def _match_name(value, name: str) -> bool | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    known = {
        "int": whole,
        "float": whole or isinstance(value, float),
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
        "list": isinstance(value, list),
        "dict": isinstance(value, dict),
    }
    return known.get(name)


def _match_generic(value, name: str, inner: ast.expr) -> bool | None:
    items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if name == "Literal":
        return value in [item.value for item in items if isinstance(item, ast.Constant)]
    if name == "Optional":
        return value is None or _match(value, inner)
    if name == "Union":
        sides = [_match(value, item) for item in items]
        return any(side is True for side in sides) or (None if set(sides) == {None} else False)
    if name == "tuple" and len(items) > 1 and ast.unparse(items[-1]) != "...":
        return isinstance(value, list) and len(value) == len(items) and all(map(_fits, value, items))
    if name in ("list", "tuple", "Sequence"):
        return isinstance(value, list) and all(_fits(item, items[0]) for item in value)
    return _match_name(value, name)
