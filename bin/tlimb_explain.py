#!/usr/bin/env python3
"""Show what the selected networks of a pack look at."""

import click

from tlimb.command import told_plainly

FOLDER = click.Path(exists=True, file_okay=False)
FILE = click.Path(exists=True, dir_okay=False)


@click.command()
@click.option("--job", required=True, type=FOLDER, help="Folder with job.json and the held-out tables.")
@click.option("--store", required=True, type=FOLDER, help="Folder with the shards of the job's recipe.")
@click.option("--models", required=True, type=FOLDER, help="Folder that holds <trial id>/ of each selected trial.")
@click.option("--encoders", type=FOLDER, help="Folder that holds <encoder id>/ of the pretrainings behind them.")
@click.option("--cohort", type=FILE, help="cohort.parquet; its labels stand beside features.")
@click.option("--selected", required=True, type=FILE, help="selected.json.")
@click.option("--settings", required=True, type=FILE, help="Keys of `evaluate`, such as seed and explain, as JSON.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Threads that torch may use.")
@click.option("--trusted", multiple=True, help="Module whose classes may be named; may be repeated.")
@click.option("--out", required=True, type=click.Path(), help="Folder to write <trial id>/ to.")
@told_plainly
def main(job, store, models, encoders, cohort, selected, settings, threads, trusted, out):
    """Explain each selected trial of the pack: maps, features and reconstructions, in OUT/<trial id>/."""
    from tlimb.evaluate_settings import read_evaluate
    from tlimb.explain.explain import Inputs, explain
    from tlimb.files import read_json
    from tlimb.scenarios.device import find_device, set_up_torch

    asked = read_evaluate(settings)
    set_up_torch(threads, training=False)
    inputs = Inputs(job, store, models, encoders, cohort, trusted)
    explain(inputs, read_json(selected)["trials"], asked, out, find_device())


if __name__ == "__main__":
    main()
