"""Trained models in formats that other programs read, checked to give the same outputs."""

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from tlimb.architectures.wrapped import Wrapped
from tlimb.errors import InputError, Problem
from tlimb.evaluation.predict import Model, read_model
from tlimb.files import read_json, replacing, write_json

FORMATS = {"onnx": ".onnx", "torchscript": ".pt", "torch-export": ".pt2"}
"""Format -> the usual end of its file's name."""

TOLERANCE = 1e-4
"""Largest difference, for outputs of the size of one, that an exported network may show; relative for larger ones."""

BATCH = 2
"""Images that a network is traced with; others are tried in the check."""


class Outputs(nn.Module):
    """A network whose heads' outputs come as a tuple, in the order of its targets."""

    def __init__(self, model: Model):
        super().__init__()
        self.network = model.network
        self.targets = [target.name for target in model.targets]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, C, ...) -> one (B, outputs) for each target."""
        made = self.network(images, self.targets)
        return tuple(made[name] for name in self.targets)


def export(folder, form: str, out, trusted=()) -> float:
    """Write the model in `folder` as `form` ("onnx", "torchscript", "torch-export") to the file `out`, and what it
    takes and gives to `<out>.json`; returns the largest difference between its outputs and the network's.

    Inputs are images as the network sees them: prepared by the recipe, presented by the data module and normalised, all
    described in the JSON. The number of images in a batch is free. Raises InputError for a failed model, and where
    outputs differ by more than 1e-4; nothing is written then.
    """
    folder, out = Path(folder), Path(out)
    facts = read_json(folder / "model.json")
    if facts["status"] != "ok":
        raise InputError([Problem(str(folder), f"there is no model to export: {facts['reason']}")])
    model = read_model(folder, trusted)
    module = Outputs(model).eval()
    images = _example(model.facts["input_shape"], BATCH)
    with replacing(out) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        WRITERS[form](module, images, temporary, module.targets)
        difference = _difference(module, READERS[form](temporary), model.facts["input_shape"])
        if not difference <= TOLERANCE:
            message = f"the exported network's outputs differ by {difference:.2g}; at most {TOLERANCE} is right"
            raise InputError([Problem(str(out), message, "try another format")])
    write_json(out.with_name(out.name + ".json"), _about(model, form, difference))
    return difference


def _example(shape: list[int], batch: int) -> Tensor:
    """Images of noise, always the same."""
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))


def _difference(module: nn.Module, exported: Callable[[Tensor], list[Tensor]], shape: list[int]) -> float:
    """The largest difference in any output, over two sizes of batch, relative to outputs that are larger than one."""
    largest = 0.0
    for batch in (BATCH, BATCH + 1):
        images = _example(shape, batch)
        with torch.no_grad():
            expected = module(images)
        for one, other in zip(expected, exported(images), strict=True):
            difference = ((one - other).abs() / one.abs().clamp(min=1)).max().item()
            largest = difference if not difference <= largest else largest
    return largest


def _write_onnx(module: nn.Module, images: Tensor, path: Path, names: list[str]) -> None:
    _require_onnx()
    quiet = logging.getLogger("torch.onnx"), logging.getLogger("onnxscript")
    for logger in quiet:
        logger.setLevel(logging.ERROR)
    torch.onnx.export(
        module,
        (images,),
        str(path),
        input_names=["images"],
        output_names=[f"output_{name}" for name in names],
        dynamo=True,
        external_data=False,
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        verbose=False,
    )


def _require_onnx() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        message = f"the format onnx needs {error.name}, which is not installed"
        raise InputError([Problem("--format", message, "install tlimb[export]")]) from None


def _read_onnx(path: Path) -> Callable[[Tensor], list[Tensor]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(one) for one in session.run(None, {"images": images.numpy()})]


def _write_torchscript(module: nn.Module, images: Tensor, path: Path, names: list[str]) -> None:
    with torch.no_grad():
        torch.jit.trace(module, (images,), check_trace=False).save(str(path))


def _read_torchscript(path: Path) -> Callable[[Tensor], list[Tensor]]:
    loaded = torch.jit.load(str(path), map_location="cpu")

    def run(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(loaded(images))

    return run


def _write_program(module: nn.Module, images: Tensor, path: Path, names: list[str]) -> None:
    with torch.no_grad():
        dynamic = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(module, (images,), dynamic_shapes=dynamic, strict=_needs_strict(module))
    torch.export.save(program, str(path), extra_files={"targets.json": json.dumps(names)})


def _needs_strict(module: nn.Module) -> bool:
    """Whether a user's own module is within: looser tracing takes a child called `features` for the wrapper's own."""
    return any(isinstance(part, Wrapped) for part in module.modules())


def _read_program(path: Path) -> Callable[[Tensor], list[Tensor]]:
    loaded = torch.export.load(str(path)).module()

    def run(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(loaded(images))

    return run


WRITERS = {"onnx": _write_onnx, "torchscript": _write_torchscript, "torch-export": _write_program}
READERS = {"onnx": _read_onnx, "torchscript": _read_torchscript, "torch-export": _read_program}


def _about(model: Model, form: str, difference: float) -> dict:
    """What stands beside an exported file: how images must reach it, and what its outputs mean."""
    kept = ("id", "fingerprint", "recipe", "module", "normalise", "hooks", "licence", "made_with", "statistics")
    return {
        "format": form,
        "input": {"name": "images", "shape": [None, *model.facts["input_shape"]], "type": "float32"},
        "outputs": [
            {"name": f"output_{target.name}", "target": target.name, "width": target.outputs, **target.facts()}
            for target in model.targets
        ],
        "largest_difference": difference,
        **{key: model.facts[key] for key in kept},
    }
