"""Weights in and out of safetensors files; what is loaded must match whole."""

from dataclasses import dataclass

from torch import Tensor, nn

from tlimb.errors import InputError, Problem
from tlimb.files import MADE_BY, replacing


@dataclass(frozen=True)
class Report:
    """How a file's tensors met a module's: names in both, only in the module, only in the file, of another shape."""

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]

    def __str__(self) -> str:
        counts = {name: len(getattr(self, name)) for name in ("matched", "missing", "unexpected", "reshaped")}
        return ", ".join(f"{count} {name}" for name, count in counts.items())


def save_weights(path, tensors: dict[str, Tensor]) -> None:
    """Write tensors to a safetensors file that says it is tlimb's, atomically."""
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(whole, temporary, metadata=MADE_BY)


def read_weights(path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; raises InputError where there is none or it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError([Problem(str(path), f"no readable weights: {error}")]) from None


def select(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_weights(module: nn.Module, tensors: dict[str, Tensor], source: str) -> Report:
    """Copy tensors into a module of the very same names and shapes.

    Raises InputError that names what is missing, unexpected or of another shape; nothing is copied then.
    """
    own = module.state_dict()
    both = sorted(set(own) & set(tensors))
    reshaped = [name for name in both if own[name].shape != tensors[name].shape]
    report = Report(
        matched=[name for name in both if name not in reshaped],
        missing=sorted(set(own) - set(tensors)),
        unexpected=sorted(set(tensors) - set(own)),
        reshaped=reshaped,
    )
    if report.missing or report.unexpected or reshaped:
        shapes = {
            name: f"{tuple(tensors[name].shape)} in the file, {tuple(own[name].shape)} in the network"
            for name in reshaped
        }
        problems = [Problem(source, f"the weights do not fit the network: {report}")]
        problems += [Problem(name, "missing in the file") for name in report.missing[:5]]
        problems += [Problem(name, "unknown to the network") for name in report.unexpected[:5]]
        problems += [Problem(name, f"has another shape: {text}") for name, text in list(shapes.items())[:5]]
        raise InputError(problems)
    module.load_state_dict(tensors)
    return report
