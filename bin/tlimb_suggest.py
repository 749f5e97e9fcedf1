#!/usr/bin/env python3
"""SUGGEST: write the next trials, their splits, the pretrainings they need and a job for each training task."""

from pathlib import Path

import click
import pandas as pd

from tlimb.command import told_plainly
from tlimb.config import read_sweep
from tlimb.files import read_json
from tlimb.search.jobs import write_round
from tlimb.search.preprocessed import read_recipes
from tlimb.search.suggest import suggest


@click.command(help=__doc__)
@click.option("--sweep", type=click.Path(path_type=Path), required=True, help="sweep.json of COHORT.")
@click.option("--cohort", type=click.Path(path_type=Path), required=True, help="cohort.parquet.")
@click.option("--cohort-json", type=click.Path(path_type=Path), required=True, help="cohort.json.")
@click.option("--store", type=click.Path(path_type=Path), required=True, help="Folder with <recipe>/shard-*.parquet and .json.")
@click.option("--round", "round_number", type=click.IntRange(1), default=1, show_default=True)
@click.option("--trials-per-task", type=click.IntRange(1), default=4, show_default=True)
@click.option("--max-failed-scans", type=click.FloatRange(0), default=0.1, show_default=True, help="A share below 1, a number from 1 on.")
@click.option("--trusted", multiple=True, metavar="MODULE", help="Allow classes of this module by import path.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write to.")
@told_plainly
def main(sweep, cohort, cohort_json, store, round_number, trials_per_task, max_failed_scans, trusted, out):
    settings, summary, table = read_sweep(read_json(sweep)), read_json(cohort_json), pd.read_parquet(cohort)
    recipes = read_recipes(store, settings.recipes, max_failed_scans)
    known = {"split_file": summary["split_file"], "files": summary["files"]}
    proposal = suggest(settings, table, summary["labels"], recipes, round_number, trusted, **known)
    write_round(out, proposal, table, summary, trials_per_task, settings.licence)


if __name__ == "__main__":
    main()
