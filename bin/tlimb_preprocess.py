#!/usr/bin/env python3
"""PREPROCESS: turn the scans of a chunk into one shard of a store."""

from pathlib import Path

import click

from tlimb.command import told_plainly
from tlimb.files import read_json
from tlimb.preprocess.chunk import preprocess_chunk
from tlimb.preprocess.recipe import read_recipe
from tlimb.store import write_shard


@click.command(help=__doc__)
@click.option("--chunk", type=click.Path(path_type=Path), required=True, help="The chunk's scans (chunk-<chunk>.json).")
@click.option("--recipe", type=click.Path(path_type=Path), required=True, help="The recipe with every setting (JSON).")
@click.option("--images", type=click.Path(path_type=Path), required=True, help="Folder with <i>/<image> for each scan.")
@click.option("--masks", type=click.Path(path_type=Path), help="Folder with <i>/<mask> for each scan that has one.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Scans worked on at a time.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write to.")
@told_plainly
def main(chunk: Path, recipe: Path, images: Path, masks: Path | None, threads: int, out: Path):
    scans = read_json(chunk)
    array, index, header = preprocess_chunk(scans, read_recipe(recipe), images, masks, threads)
    write_shard(out, scans["chunk"], array, index, header)
    for row in index:
        if row["reason"] or row["warnings"]:
            click.echo(f"{row['scan_id']}: {row['reason'] or row['warnings']}", err=True)


if __name__ == "__main__":
    main()
