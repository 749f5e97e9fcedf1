#!/usr/bin/env python3
"""PREPROCESS: turn the scans of a chunk into one shard of a store."""

from pathlib import Path

import click

from tlimb.command import told_plainly
from tlimb.files import read_json
from tlimb.preprocess.chunk import preprocess_chunk
from tlimb.preprocess.recipe import read_recipe
from tlimb.store import write_shard

FOLDER = click.Path(path_type=Path)


@click.command(help=__doc__)
@click.option("--chunk", type=FOLDER, required=True, help="The chunk's scans (chunk-<chunk>.json).")
@click.option("--recipe", type=FOLDER, required=True, help="The recipe with every setting (JSON).")
@click.option("--images", type=FOLDER, required=True, help="Folder with <i>/<image> for each scan.")
@click.option("--masks", type=FOLDER, help="Folder with <i>/<mask>, i counted among the scans that have one.")
@click.option("--confounds", type=FOLDER, help="Folder with <i>/<table>, i counted among the scans that have one.")
@click.option("--atlas", type=FOLDER, help="The recipe's atlas where it is a file: that file, or the folder it is in.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Scans worked on at a time.")
@click.option("--out", type=FOLDER, required=True, help="Folder to write to.")
@told_plainly
def main(chunk: Path, recipe: Path, out: Path, **given):
    scans = read_json(chunk)
    out.mkdir(parents=True, exist_ok=True)
    array, index, header, montages = preprocess_chunk(scans, read_recipe(recipe), scratch=out, **given)
    write_shard(out, scans["chunk"], array, index, header, montages)
    for row in index:
        if row["reason"] or row["warnings"]:
            click.echo(f"{row['scan_id']}: {row['reason'] or row['warnings']}", err=True)


if __name__ == "__main__":
    main()
