"""Any torch module as an encoder: what it is called with, and what its output says of it."""

from torch import Tensor, nn

from tlimb.architectures.size_check import BATCH, by, shape_of
from tlimb.errors import InputError, Problem
from tlimb.registry import FROM_DATA


def is_encoder(module: nn.Module) -> bool:
    """Whether a module says itself what tlimb has to know: the number `features` and the names `blocks`."""
    return isinstance(getattr(module, "features", None), int) and _names(getattr(module, "blocks", None))


def foreign_arguments(input_shape: tuple[int, ...]) -> dict:
    """What constructors elsewhere call the facts of the data, filled in where an argument is so named and not typed.

    input_shape: (C, ...). in_chans is timm's; n_input_channels, spatial_dims and img_size are MONAI's.
    """
    channels, *size = input_shape
    return dict(zip(FROM_DATA, (channels, channels, len(size), tuple(size)), strict=True))


def output_shape(made, input_shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    """The shape of what a module made of BATCH images (C, ...): (B, F) features or (B, C, ...) maps.

    name: of the architecture. Raises InputError for anything else.
    """
    shape, size = shape_of(made), f"images of shape {input_shape} (channels first)"
    if isinstance(shape, str):
        hint = "let the forward of a class of your own call it and return the tensor that is wanted"
        raise InputError([Problem(f"architecture {name}", f"gives a {shape} for {size}, expected one tensor", hint)])
    if len(shape) < 2 or shape[0] != BATCH or min(shape) < 1:
        expected = f"({BATCH}, features) or maps ({BATCH}, C, ...)"
        message = f"gives {by(shape) or 'a number'} for {BATCH} {size}, expected {expected}"
        raise InputError([Problem(f"architecture {name}", message)])
    if not made.is_floating_point():
        raise InputError([Problem(f"architecture {name}", f"gives {made.dtype} for {size}, expected floating point")])
    return shape


def wrap(module: nn.Module, shape: tuple[int, ...], dims: int) -> nn.Module:
    """The encoder that a module is. shape: of its output; of maps, features are the mean over positions."""
    return (Wrapped if len(shape) == 2 else WrappedMaps)(module, shape[1], dims)


class Wrapped(nn.Module):
    """A module of anybody's whose output (B, F) are features.

    Its parameters, buffers and submodules keep the names that they have in it, in files too. Its blocks are what its
    attribute `blocks` names, a tuple of names; else those of its children that have parameters, as they are defined, of
    an only child its children.
    """

    def __init__(self, module: nn.Module, features: int, dims: int):
        super().__init__()
        self._wrapped = (module,)  # in a tuple, so that it is no submodule, which would put its name before all others
        for kind in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            setattr(self, kind, getattr(module, kind))
        own = getattr(module, "blocks", None)
        blocks = tuple(own) if _names(own) else _children(module)
        vars(self).update(features=features, blocks=blocks, dims=dims)  # a submodule may bear one of these names

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, features) of images (B, C, ...)."""
        return self._wrapped[0](images)

    def train(self, mode: bool = True) -> "Wrapped":
        """Training or evaluation mode, as the module itself takes it."""
        self._wrapped[0].train(mode)
        self.training = mode
        return self

    def __setattr__(self, name: str, value) -> None:
        """Whoever sets the mode of this module alone, as freezing does, sets that of the module itself."""
        if name == "training":
            self._wrapped[0].training = value
        super().__setattr__(name, value)

    def get_submodule(self, target: str) -> nn.Module:
        """A submodule by its name, the module itself by an empty one."""
        return self._wrapped[0].get_submodule(target)


class WrappedMaps(Wrapped):
    """A module of anybody's whose output (B, C, ...) are maps; features are their mean over positions."""

    def __init__(self, module: nn.Module, features: int, dims: int):
        super().__init__(module, features, dims)
        vars(self).update(channels=features)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, channels) of images (B, C, ...)."""
        return self.pool(self.maps(images))

    def maps(self, images: Tensor) -> Tensor:
        """(B, channels, ...), what the module gives."""
        return self._wrapped[0](images)

    def levels(self, images: Tensor) -> list[Tensor]:
        """The maps alone."""
        return [self.maps(images)]

    def pool(self, maps: Tensor) -> Tensor:
        """(B, channels, ...) -> (B, channels)."""
        return maps.flatten(2).mean(dim=2)


def _names(value) -> bool:
    return isinstance(value, (tuple, list)) and len(value) > 0 and all(isinstance(name, str) for name in value)


def _children(module: nn.Module, prefix: str = "") -> tuple[str, ...]:
    """The children that have parameters; of an only child, which alone has any, its own."""
    children = {name: child for name, child in module.named_children() if any(True for _ in child.parameters())}
    if len(children) == 1 and not any(True for _ in module.parameters(recurse=False)):
        name, child = next(iter(children.items()))
        return _children(child, f"{prefix}{name}.") or (f"{prefix}{name}",)
    return tuple(f"{prefix}{name}" for name in children)
