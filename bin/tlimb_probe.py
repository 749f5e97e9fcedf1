#!/usr/bin/env python3
"""Score what frozen encoders give of the target's training scans."""

import click

from tlimb.command import told_plainly


@click.command()
@click.option("--job", required=True, type=click.Path(exists=True), help="Folder with job.json and table.parquet.")
@click.option(
    "--store", required=True, type=click.Path(exists=True), help="Folder with the shards of the job's recipe."
)
@click.option("--encoders", type=click.Path(exists=True), help="Folder that holds <encoder id>/ of each encoder.")
@click.option("--file", "files", multiple=True, type=click.Path(exists=True), help="A file of the job, in its order.")
@click.option("--settings", type=click.Path(exists=True), help="The sweep's `evaluate` as JSON.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Threads that torch may use.")
@click.option("--trusted", multiple=True, help="Module whose classes may be named; may be repeated.")
@click.option("--out", required=True, type=click.Path(), help="Folder to write <job id>/probe.json to.")
@told_plainly
def main(job, store, encoders, files, settings, threads, trusted, out):
    """Score every encoder of the job, write OUT/<job id>/probe.json."""
    from tlimb.evaluate_settings import read_evaluate
    from tlimb.evaluation.probe import probe
    from tlimb.scenarios.device import find_device, set_up_torch
    from tlimb.scenarios.job import named_files

    asked = read_evaluate(settings)
    set_up_torch(threads, training=False)
    probe(job, store, encoders, out, asked, find_device(), trusted, named_files(job, files))


if __name__ == "__main__":
    main()
