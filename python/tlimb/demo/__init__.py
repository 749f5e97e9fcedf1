"""The demo: cohorts with planted anatomy or rhythms, and the oracle of what can be found."""

from pathlib import Path

import click

from tlimb.command import told_plainly

TEST_PERSONS = 100


@click.command("demo-cohort")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--scans", type=click.IntRange(min=10), default=600, show_default=True, help="Scans of both cohorts.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides on persons, poses and noise.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Threads.")
@told_plainly
def demo_cohort_command(out: Path, scans: int, seed: int, workers: int) -> None:
    """Make two cohorts of T1-like scans in OUT: `lifespan` with ages and `clinic` with a diagnosis."""
    from tlimb.demo.cohorts import demo_cohort
    from tlimb.demo.people import clinic_size

    samplesheet = demo_cohort(out, scans, seed, workers)
    clinic = clinic_size(scans)
    click.echo(f"{samplesheet}: {scans - clinic} scans in lifespan, {clinic} in clinic")
    if clinic < 2 * TEST_PERSONS:
        enough = f"for a test part of {TEST_PERSONS} take --scans {5 * TEST_PERSONS} or more"
        click.echo(f"Half of clinic is {clinic // 2} persons: {enough}.", err=True)


@click.command("demo-series")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--persons", type=click.IntRange(min=16), default=48, show_default=True, help="Persons of both cohorts.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides on persons, rhythms and noise.")
@told_plainly
def demo_series_command(out: Path, persons: int, seed: int) -> None:
    """Make two cohorts of time series in OUT: `parcels` (tables) with ages and `clinic` (images) with a diagnosis."""
    from tlimb.demo.series import write_series_cohort

    samplesheet = write_series_cohort(out, persons, seed)
    click.echo(f"{samplesheet}: {persons} persons; assets/sweeps/series.json is a sweep over them")
