#!/usr/bin/env python3
"""COHORT: check sweep and samplesheet together and cut the scans into chunks."""

from pathlib import Path

import click

from tlimb.cohort import chunk_files
from tlimb.command import told_plainly
from tlimb.files import read_json, write_json, write_parquet
from tlimb.search.check import Files, check_inputs


@click.command(help=__doc__)
@click.option("--settings", type=click.Path(path_type=Path), required=True, help="The sweep as the user wrote it (JSON).")
@click.option("--samplesheet", type=click.Path(path_type=Path), required=True, help="CSV or TSV, one row a scan, or a BIDS folder.")
@click.option("--label-table", "label_tables", type=click.Path(path_type=Path), multiple=True, help="CSV or TSV with more labels, joined by subject.")
@click.option("--split-file", type=click.Path(path_type=Path), help="CSV or TSV with the role of each person.")
@click.option("--weights", type=click.Path(path_type=Path), multiple=True, help="A file or folder that the sweep starts from.")
@click.option("--weights-list", type=click.Path(path_type=Path), help="JSON: a {path, file} for each --weights: as the sweep writes it, and where it lies.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write to.")
@click.option("--chunk-size", type=click.IntRange(1), default=64, show_default=True, help="Scans preprocessed by one task.")
@click.option("--trusted", multiple=True, metavar="MODULE", help="Allow classes of this module by import path.")
@told_plainly
def main(settings, samplesheet, label_tables, split_file, weights, weights_list, out, chunk_size, trusted):
    named = read_json(weights_list) if weights_list else []
    found = {item["path"]: (path, item["file"]) for item, path in zip(named, weights, strict=True)}
    inputs = check_inputs(read_json(settings), Files(samplesheet, label_tables, split_file, found), trusted)
    write_parquet(out / "cohort.parquet", inputs.cohort.table)
    write_json(out / "cohort.json", inputs.cohort.summary)
    write_json(out / "sweep.json", inputs.sweep.model_dump())
    for recipe, scans in inputs.scans.items():
        for name, chunk in chunk_files(scans, chunk_size).items():
            write_json(out / "chunks" / recipe / f"chunk-{name}.json", chunk)


if __name__ == "__main__":
    main()
