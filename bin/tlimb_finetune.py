#!/usr/bin/env python3
"""Train the last stage of each trial of a pack."""

import click

from tlimb.command import told_plainly


@click.command()
@click.option("--job", required=True, type=click.Path(exists=True), help="Folder with job.json and table.parquet.")
@click.option(
    "--store", required=True, type=click.Path(exists=True), help="Folder with the shards of the job's recipe."
)
@click.option(
    "--encoders", type=click.Path(exists=True), help="Folder that holds <encoder id>/ of each pretraining needed."
)
@click.option("--file", "files", multiple=True, type=click.Path(exists=True), help="A file of the job, in its order.")
@click.option(
    "--states", type=click.Path(exists=True), help="Folder with <trial id>/ of the rung before, of trials that go on."
)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Threads that torch may use.")
@click.option("--state-dir", type=click.Path(), help="Folder where training states are kept.")
@click.option("--state-seconds", default=30.0, show_default=True, help="Least time between two states written.")
@click.option("--code", default="", help="Digest of the training code: states of other code are not used.")
@click.option("--trusted", multiple=True, help="Module whose classes may be named; may be repeated.")
@click.option("--out", required=True, type=click.Path(), help="Folder to write <trial id>/ to.")
@told_plainly
def main(job, store, encoders, files, states, threads, state_dir, state_seconds, code, trusted, out):
    """Train every trial of the pack to its budget, write OUT/<trial id>/ for each, finished or failed."""
    from tlimb.scenarios.device import find_device, set_up_torch
    from tlimb.scenarios.finetune import finetune
    from tlimb.scenarios.job import named_files
    from tlimb.scenarios.results import Settings

    set_up_torch(threads, training=True)
    settings = Settings(find_device(), state_dir, code, trusted, state_seconds)
    finetune(job, store, encoders, out, settings, named_files(job, files), states)


if __name__ == "__main__":
    main()
