"""Where maps are brought: the store's grid, in template space where scans were registered."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tlimb.data.view import View
from tlimb.explain.geometry import Geometry, geometry, spatial
from tlimb.explain.picture import Volume, template
from tlimb.files import read_json
from tlimb.store import Store


@dataclass(frozen=True)
class Space:
    """The grid of mean maps.

    seen: (C, ...), whether any explained image has something there; elsewhere maps are 0. affine: (4, 4) of the grid.
    mni: whether it is the template's space. place: how an image lies in it, None where maps stay on the image's own
    grid. ground: what is drawn below maps; None for time series.
    """

    seen: Tensor
    affine: np.ndarray
    mni: bool
    place: Geometry | None
    ground: Volume | None

    def bring(self, maps: Tensor) -> np.ndarray:
        """The mean of maps (n, C, ...) as float32: (X, Y, Z), or (regions, time) of time series."""
        mean = spatial((maps.double().mean(0, keepdim=True) * self.seen).numpy())[0]
        return self.place.place(mean) if self.place is not None else mean.astype("float32")

    def mm(self, voxel) -> np.ndarray:
        """The place in mm of a voxel."""
        return self.affine[:3, :3] @ np.asarray(voxel, float) + self.affine[:3, 3]


def space_of(store: Store, view: View, scan_ids: list[str], images: Tensor) -> Space:
    """The space of the maps of some scans, whose images (n, C, ...) the network sees."""
    header = read_json(store.folder / f"shard-{store.shards[0]}.json")
    place = geometry(view.module, store.shape, tuple(images.shape[1:]))
    seen = (images != 0).any(0).cpu()
    if images.ndim == 3:
        return Space(seen, np.eye(4), False, None, None)
    if place is None:
        mean = spatial(images.mean(0, keepdim=True).cpu().numpy())[0]
        return Space(seen, np.eye(4), False, None, (_lifted(mean), np.eye(4)))
    recipe = header["recipe"]
    if recipe.get("kind", "volume") == "volume" and recipe.get("registration", "none") != "none":
        return Space(seen, np.asarray(header["affine"], float), True, place, template())
    upright = np.diag([*[float(header["spacing"])] * 3, 1.0])
    mean = store.gather(scan_ids).mean(0, dtype="float32")
    return Space(seen, upright, False, place, (_lifted(mean), upright))


def _lifted(image: np.ndarray) -> np.ndarray:
    """An image that is 0 outside of the brain and of any sign in it, made positive in it."""
    return np.where(image == 0, 0, image - image.min() + 1e-3).astype("float32")


def presented(view: View, rows, targets, device: torch.device) -> Tensor:
    """Images (n, C, ...) of scans on the device as the network sees them in prediction; rows: scan_id and person."""
    from tlimb.data.dataset import fetch

    unlabelled = rows[["scan_id", "person"]].assign(**{target.name: np.nan for target in targets})
    dataset = view.dataset(unlabelled, targets)
    torch.manual_seed(0)  # a hook that draws does so alike each time
    images, labels = view.before(fetch(dataset, list(range(len(dataset)))), training=False)
    on_device = images.to(device), [label.to(device) for label in labels]
    return view.after(on_device, training=False)[0].detach()
