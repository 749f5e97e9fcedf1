#!/usr/bin/env python3
"""Select the candidates of a search on validation: selected.json."""

from pathlib import Path

import click

from tlimb.command import told_plainly

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--sweep", required=True, type=FILE, help="sweep.json with every default filled in.")
@click.option("--cohort-json", required=True, type=FILE, help="cohort.json.")
@click.option("--search", required=True, type=FOLDER, help="Holds round-<k>/trials.jsonl and pretrainings.jsonl.")
@click.option("--store", required=True, type=FOLDER, help="Holds <recipe>/shard-*.parquet and .json.")
@click.option("--encoders", required=True, type=FOLDER, help="Holds <encoder id>/ folders.")
@click.option("--models", required=True, type=FOLDER, help="Holds <trial id>/ folders of models.")
@click.option("--validation", required=True, type=FOLDER, help="Holds <trial id>/scores-validation.json.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write.")
@told_plainly
def main(sweep, cohort_json, search, store, encoders, models, validation, out):
    """Select the best candidate and the best of each other strategy on validation; write a trial of each to OUT."""
    from tlimb.explain.select import write_selected
    from tlimb.ranking.results import read_results

    results = read_results(
        sweep=sweep, cohort=cohort_json, search=search, store=store, encoders=encoders, models=models, scores=validation
    )
    for trial in write_selected(results, out):
        click.echo(f"{trial['selected']}: {trial['name'] or trial['candidate']}, trial {trial['id']}")


if __name__ == "__main__":
    main()
