"""Pictures of a few scans out of the montages of all, for a page that needs no other file."""

from base64 import b64encode
from collections.abc import Collection
from pathlib import Path


def pictures(folder: Path | None, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """(recipe, scan_id) -> `data:` URI of its montage, for those of `wanted` that have one.

    folder: holds <recipe>/shard-*.montage.parquet with the columns scan_id and image (PNG); None gives no picture.
    Images are read of the shards alone that hold a wanted scan.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    found = {}
    for recipe in sorted({recipe for recipe, _ in wanted}) if folder else []:
        scans = [scan for name, scan in wanted if name == recipe]
        for path in sorted(Path(folder, recipe).glob("shard-*.montage.parquet")):
            there = pq.read_table(path, columns=["scan_id"])["scan_id"]
            places = pc.indices_nonzero(pc.is_in(there, value_set=pc.cast(scans, there.type)))
            if len(places):
                images = pq.read_table(path, columns=["image"])["image"].take(places).to_pylist()
                named = zip(there.take(places).to_pylist(), images)
                found |= {(recipe, scan): _uri(image) for scan, image in named if image}
    return found


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + b64encode(png).decode("ascii")
