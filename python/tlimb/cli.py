"""The `tlimb` command: plans, samplesheets, pictures of samples, the demo cohorts, the schema of a sweep."""

import json
import os
import sys
from pathlib import Path

import click

from tlimb import __version__
from tlimb.command import told_plainly


class _Lazy(click.Group):
    """A group whose heavier commands are imported only when they are asked for."""

    later = {
        "demo-cohort": ("tlimb.demo", "demo_cohort_command"),
        "demo-series": ("tlimb.demo", "demo_series_command"),
        "export": ("tlimb.weights.commands", "export_command"),
        "list": ("tlimb.architectures.listing", "list_command"),
        "merge": ("tlimb.ranking.merge_command", "merge_command"),
        "predict": ("tlimb.predict.command", "predict_command"),
        "samplesheet": ("tlimb.layouts.command", "samplesheet"),
        "show": ("tlimb.data.show", "show_command"),
        "watch": ("tlimb.watch.command", "watch_command"),
        "weights": ("tlimb.weights.commands", "weights_command"),
    }

    def list_commands(self, ctx):
        return sorted([*super().list_commands(ctx), *self.later])

    def get_command(self, ctx, name):
        if name not in self.later:
            return super().get_command(ctx, name)
        from importlib import import_module

        module, attribute = self.later[name]
        return getattr(import_module(module), attribute)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tlimb")
def main():
    """Transfer learning for brain MRI.

    The pipeline itself is started with `nextflow run . --params-file sweep.json`; `nextflow run . --help` lists its
    parameters.
    """


@main.command()
@click.argument("sweep", type=click.Path(path_type=Path))
@click.option("--trusted", multiple=True, metavar="MODULE", help="Allow classes of this module by import path.")
@click.option(
    "--trace", type=click.Path(exists=True, path_type=Path), help="trace.txt of a run, if not the one in outdir."
)
@click.option(
    "--study", type=click.Path(exists=True, path_type=Path), help="study.json, or the rounds' folder, that SWEEP extends."
)
@click.option("--measure", is_flag=True, help="Time some steps of each network on this machine.")
@click.option("--trials-per-task", type=click.IntRange(1), help="Most trials of a pack; the sweep's, or 4.")
@click.option("--chunk-size", type=click.IntRange(1), help="Most scans that a task prepares; the sweep's, or 64.")
@told_plainly
def plan(sweep: Path, trusted: tuple[str, ...], trace, study: Path | None, measure: bool, trials_per_task, chunk_size):
    """List what SWEEP (a JSON file) would run: trials, pretrainings, scans, disk, tasks and their time. Runs nothing.

    Time is estimated from what an earlier run left in the sweep's outdir, or with --measure from some steps timed here.
    """
    from tlimb.search.costs import read_known
    from tlimb.search.plan import describe, plan_of, sizes_of

    sys.path.append(os.getcwd())  # modules of the user's own lie where Nextflow is started
    found = plan_of(sweep, trusted, study)
    known = read_known(Path(found.sweep.outdir), trace)
    if measure:
        from tlimb.search.measure import measured

        known = measured(found, known, trusted)
    click.echo(describe(found, known, sizes_of(sweep, trials_per_task, chunk_size)))


@main.command()
def schema():
    """Print the JSON Schema of a sweep."""
    from tlimb.config import sweep_schema

    click.echo(json.dumps(sweep_schema(), indent=2))
