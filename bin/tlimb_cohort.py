#!/usr/bin/env python3
"""COHORT: check sweep and samplesheet together and cut the scans into chunks."""

from pathlib import Path

import click

from tlimb.cohort import chunk_files, read_cohort
from tlimb.command import told_plainly
from tlimb.config import read_sweep
from tlimb.errors import InputError
from tlimb.files import read_json, write_json, write_parquet
from tlimb.search.suggest import all_fine, suggest


@click.command(help=__doc__)
@click.option("--settings", type=click.Path(path_type=Path), required=True, help="The sweep as the user wrote it (JSON).")
@click.option("--samplesheet", type=click.Path(path_type=Path), required=True, help="CSV or TSV, one row a scan.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write to.")
@click.option("--chunk-size", type=click.IntRange(1), default=64, show_default=True, help="Scans preprocessed by one task.")
@click.option("--trusted", multiple=True, metavar="MODULE", help="Allow classes of this module by import path.")
@told_plainly
def main(settings: Path, samplesheet: Path, out: Path, chunk_size: int, trusted: tuple[str, ...]):
    problems, sweep, cohort = [], None, None
    try:
        sweep = read_sweep(read_json(settings))
    except InputError as error:
        problems += error.problems
    try:
        cohort = read_cohort(samplesheet, sweep.labels if sweep else {})
    except InputError as error:
        problems += error.problems
    if problems:
        raise InputError(problems)
    suggest(sweep, cohort.table, cohort.summary["labels"], all_fine(cohort.table, sweep.recipes), trusted=trusted)
    write_parquet(out / "cohort.parquet", cohort.table)
    write_json(out / "cohort.json", cohort.summary)
    write_json(out / "sweep.json", sweep.model_dump())
    for name, chunk in chunk_files(cohort.table, chunk_size).items():
        write_json(out / "chunks" / f"chunk-{name}.json", chunk)


if __name__ == "__main__":
    main()
