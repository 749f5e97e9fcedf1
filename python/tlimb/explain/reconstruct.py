"""What autoencoders make of held-out scans: reconstructions beside their inputs, and histograms of their codes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from tlimb import registry
from tlimb.architectures.build import build_network
from tlimb.architectures.network import Network
from tlimb.architectures.weights import load_weights, read_weights, select
from tlimb.explain.output import DoesNotApply
from tlimb.explain.picture import save
from tlimb.files import read_json
from tlimb.objectives.masked_autoencoder import MaskedAutoencoder, patches_of
from tlimb.objectives.reconstruction import Reconstruction
from tlimb.objectives.term import Beginning
from tlimb.seeds import seed_for

HEAD = Reconstruction.head
SHOWN, CODED = 4, 64
"""Scans in the picture, and scans whose codes are counted."""

BINS = 64
NEAR_ZERO = 0.01
"""A number of a code whose size is below this part of the largest counts as near zero."""


@dataclass(frozen=True)
class Autoencoder:
    """An encoder with what turns its codes back into images.

    facts: encoder.json or model.json. term: what it was trained with, if that hides parts of images; a
    MaskedAutoencoder has its decoder.
    """

    network: Network
    facts: dict
    term: torch.nn.Module | None = None


@dataclass(frozen=True)
class Rebuilt:
    """Images (n, C, ...): as they are, as the network was shown them, and as it makes them."""

    images: Tensor
    shown: Tensor
    made: Tensor


def read_autoencoder(folder: Path, trusted=()) -> Autoencoder:
    """The network in the folder of a pretraining or of a model. Raises DoesNotApply where it holds no decoder."""
    whole = (folder / "model.json").exists()
    facts = read_json(folder / ("model.json" if whole else "encoder.json"))
    if facts["status"] != "ok":
        raise DoesNotApply("the training failed")
    encoder = read_weights(folder / ("model.safetensors" if whole else "encoder.safetensors"))
    heads = select(encoder, "heads.") if whole else read_weights(folder / "heads.safetensors")
    encoder, head = select(encoder, "encoder.") if whole else encoder, select(heads, f"{HEAD}.")
    primary = (facts.get("objective") or {}).get("primary") or {}
    term = _term(primary, trusted) if "class_path" in primary else None
    if not head and not isinstance(term, MaskedAutoencoder):
        raise DoesNotApply("it has no decoder, or training did not keep one")
    spec = {HEAD: facts["heads"].get(HEAD) or Reconstruction.heads[HEAD]} if head else {}
    shape = tuple(facts["input_shape"])
    network = build_network(facts["architecture"], shape, {}, facts["seed"], trusted, spec, facts["recipe"])
    load_weights(network.encoder, encoder, str(folder))
    if head:
        load_weights(network.head(HEAD), head, str(folder))
    if isinstance(term, MaskedAutoencoder):
        if not (folder / "objective.safetensors").exists():
            raise DoesNotApply("the decoder of its masked autoencoding was not kept")
        term.start(Beginning(network, input_shape=shape))
        load_weights(term, read_weights(folder / "objective.safetensors"), str(folder))
        term.eval()
    return Autoencoder(network.eval(), facts, term)


def _term(spec: dict, trusted) -> torch.nn.Module | None:
    """The primary term of a stage where it hides parts of images, else None."""
    made = registry.load("objective", spec["class_path"], trusted)
    if made is MaskedAutoencoder:
        return made(**spec["init_args"])
    term = made(**spec["init_args"]) if made is Reconstruction else None
    return term if term is not None and term.masked else None


def rebuilt(auto: Autoencoder, images: Tensor) -> Rebuilt:
    """What it makes of images (n, C, ...), on their device; what is hidden is drawn alike each time."""
    torch.manual_seed(seed_for(0, "reconstruction"))
    with torch.inference_mode():
        if isinstance(auto.term, MaskedAutoencoder):
            return _predicted(auto.network, auto.term, images)
        shown = images if auto.term is None else auto.term.seen(images)
        return Rebuilt(images, shown, auto.network(shown, [HEAD])[HEAD].float())


def _predicted(network: Network, term: MaskedAutoencoder, images: Tensor) -> Rebuilt:
    """Hidden patches as the term predicts them among the others as they are; normalised ones on their own scale."""
    grid, wide = network.encoder.grid, pad(images, network.encoder.padding).float()
    patches = patches_of(wide, grid)
    order = torch.rand(len(images), patches.shape[1]).argsort(1).to(images.device)
    rows, hidden = torch.arange(len(images), device=images.device)[:, None], order[:, term.shown :]
    made = term.decoder(network.visible(images, order[:, : term.shown]), order, term.shown).float()
    if term.normalise:
        known = patches[rows, hidden]
        made = made * (known.var(dim=2, keepdim=True) + 1e-6).sqrt() + known.mean(dim=2, keepdim=True)
    shown, filled = patches.clone(), patches.clone()
    shown[rows, hidden], filled[rows, hidden] = 0, made
    within = tuple(slice(0, length) for length in images.shape[1:])
    parts = (from_patches(part, grid, wide.shape)[(slice(None), *within)] for part in (shown, filled))
    return Rebuilt(images, *parts)


def from_patches(patches: Tensor, grid: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """What `patches_of` cut, (B, patches, C * voxels), put together again: (B, C, ...) of a shape."""
    within = [size // count for size, count in zip(shape[2:], grid)]
    parted = patches.reshape(len(patches), *grid, shape[1], *within)
    dims = len(grid)
    order = [1 + dims, *(axis for place in range(dims) for axis in (1 + place, 2 + dims + place))]
    return parted.permute(0, *order).reshape(shape)


def codes(network: Network, images: Tensor) -> Tensor:
    """The numbers between encoder and decoder, (n, numbers): the encoder's maps, else its features."""
    with torch.inference_mode():
        code = network.encoder.maps(images) if hasattr(network.encoder, "maps") else network.encode(images)
        return code.flatten(1).float().cpu()


def histograms(code: Tensor) -> dict:
    """Counts of the numbers of codes (n, numbers), and of the means of each over the scans.

    The second is figure 3.1 of Atanaszov, Ritter (2019), "Transfer Learning for MRI": activations of the encoder's last
    layer, averaged over the test set, which a penalty on their size draws to zero.
    """
    array = code.numpy().astype("float64")
    return {
        "scans": len(array),
        "numbers": array.shape[1],
        "values": histogram(array.ravel()),
        "means": histogram(array.mean(0)),
    }


def histogram(values: np.ndarray) -> dict:
    """BINS counts, their BINS + 1 edges, and the share of values near zero."""
    counts, edges = np.histogram(values, BINS)
    near = float((np.abs(values) <= NEAR_ZERO * max(np.abs(values).max(), 1e-12)).mean())
    return {"edges": edges.tolist(), "counts": counts.tolist(), "near_zero": near}


def draw_grid(path: Path, found: Rebuilt, title: str) -> None:
    """A PNG with a row a scan: its middle axial slice, what was shown of it, the reconstruction, the difference."""
    from matplotlib.figure import Figure

    hides = found.shown is not found.images
    columns = {"input": found.images, **({"shown": found.shown} if hides else {}), "reconstruction": found.made}
    columns["difference"] = found.made - found.images
    rows = len(found.images)
    figure = Figure((1.7 * len(columns) + 0.9, 1.75 * rows + 0.5), 80, layout="constrained", facecolor="white")
    panels = figure.subplots(rows, len(columns), squeeze=False)
    low, high = (float(value) for value in torch.quantile(_sample(found.images), torch.tensor([0.01, 0.995])))
    limit = max(high - low, 1e-6) / 2
    for row in range(rows):
        for panel, (name, images) in zip(panels[row], columns.items()):
            signed = name == "difference"
            ends, colours = ((-limit, limit), "RdBu_r") if signed else ((low, high), "gray")
            aspect = "auto" if images.ndim == 3 else "equal"
            drawn = panel.imshow(_slice(images[row]), cmap=colours, clim=ends, origin="lower", aspect=aspect)
            panel.set(xticks=[], yticks=[])
            panel.set_title(name if row == 0 else "", fontsize=9)
    bar = figure.colorbar(drawn, ax=panels, shrink=0.6, fraction=0.04, aspect=20)
    bar.set_label("reconstruction - input", fontsize=9)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def _slice(image: Tensor) -> np.ndarray:
    """The plane that is drawn of an image (C, ...), rows upwards."""
    array = image.float().cpu().numpy()
    if array.ndim == 2:
        return array
    return (array[0, :, :, array.shape[3] // 2] if array.ndim == 4 else array[len(array) // 2]).T


def _sample(images: Tensor) -> Tensor:
    """At most a million of the voxels."""
    flat = images.float().cpu().flatten()
    return flat[:: max(1, len(flat) // 1_000_000)]
