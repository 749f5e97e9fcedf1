#!/usr/bin/env python3
"""Predict and score what the trials of a pack held out."""

import click

from tlimb.command import told_plainly


@click.command()
@click.option(
    "--job", required=True, type=click.Path(exists=True), help="Folder with job.json and the held-out tables."
)
@click.option(
    "--store", required=True, type=click.Path(exists=True), help="Folder with the shards of the job's recipe."
)
@click.option(
    "--models", required=True, type=click.Path(exists=True), help="Folder that holds <trial id>/ of each trial."
)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Threads that torch may use.")
@click.option(
    "--settings", type=click.Path(exists=True), help="JSON file of the sweep's `evaluate`; defaults where it is silent."
)
@click.option("--trusted", multiple=True, help="Module whose classes may be named; may be repeated.")
@click.option("--out", required=True, type=click.Path(), help="Folder to write <trial id>/ to.")
@told_plainly
def main(job, store, models, threads, settings, trusted, out):
    """Predict and score validation, test and external parts, write OUT/<trial id>/ for each trial."""
    from tlimb.evaluate_settings import read_evaluate
    from tlimb.evaluation.predict import evaluate
    from tlimb.scenarios.device import find_device, set_up_torch

    asked = read_evaluate(settings)
    set_up_torch(threads, training=False)
    evaluate(job, store, models, out, asked, find_device(), trusted)


if __name__ == "__main__":
    main()
