#!/usr/bin/env python3
"""SUGGEST: write the next trials, their splits, the pretrainings they need, a job for each task and the study so far."""

from pathlib import Path

import click
import pandas as pd

from tlimb.command import told_plainly
from tlimb.config import read_sweep
from tlimb.errors import InputError
from tlimb.files import read_json
from tlimb.search.jobs import write_round
from tlimb.search.preprocessed import read_recipes
from tlimb.search.study import Study, read_scores, read_study, tell, write_study
from tlimb.search.suggest import suggest


def _earlier(path: Path) -> Study | None:
    """The study to extend, None where the file is not one that this version writes."""
    try:
        return read_study(path)
    except InputError as error:
        if not path.exists():
            raise
        click.echo(f"the study before was passed over: {error}", err=True)
        return None


@click.command(help=__doc__)
@click.option("--sweep", type=click.Path(path_type=Path), required=True, help="sweep.json of COHORT.")
@click.option("--cohort", type=click.Path(path_type=Path), required=True, help="cohort.parquet.")
@click.option("--cohort-json", type=click.Path(path_type=Path), required=True, help="cohort.json.")
@click.option("--store", type=click.Path(path_type=Path), required=True, help="Folder with <recipe>/shard-*.parquet and .json.")
@click.option("--before", type=click.Path(path_type=Path), help="study.json of the round before; none in the first round.")
@click.option("--validation", type=click.Path(path_type=Path), help="Folder with <trial id>/scores-validation.json of the round before.")
@click.option("--study", type=click.Path(path_type=Path), help="study.json of an earlier run to extend; in the first round.")
@click.option("--round", "number", type=click.IntRange(1), help="Fail unless this is the round.")
@click.option("--trials-per-task", type=click.IntRange(1), default=4, show_default=True)
@click.option("--max-failed-scans", type=click.FloatRange(0), default=0.1, show_default=True, help="A share below 1, a number from 1 on.")
@click.option("--trusted", multiple=True, metavar="MODULE", help="Allow classes of this module by import path.")
@click.option("--page", type=click.Path(path_type=Path), help="Write a page that shows how far the search is.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write to.")
@told_plainly
def main(
    sweep,
    cohort,
    cohort_json,
    store,
    before,
    validation,
    study,
    number,
    trials_per_task,
    max_failed_scans,
    trusted,
    page,
    out,
):
    if before is not None and validation is None:
        raise click.UsageError("--before needs --validation, the scores of that round")
    settings, summary, table = read_sweep(read_json(sweep)), read_json(cohort_json), pd.read_parquet(cohort)
    recipes = read_recipes(store, settings.recipes, max_failed_scans)
    known = {"split_file": summary["split_file"], "files": summary["files"]}
    told = None
    if before is not None:
        asked = read_study(before)
        told = tell(asked, read_scores(validation, asked))
    if number not in (None, len(told.rounds) + 1 if told else 1):
        raise click.UsageError(f"--round {number}: --before holds {len(told.rounds) if told else 0} rounds")
    earlier = None if study is None or told is not None else _earlier(study)
    proposal = suggest(settings, table, summary["labels"], recipes, trusted, before=told, earlier=earlier, **known)
    write_round(out, proposal, table, summary, trials_per_task, settings.licence, settings.evaluate)
    write_study(out / "study.json", proposal.study)
    if earlier is not None and "passed over" in proposal.study.reason:
        click.echo(proposal.study.reason, err=True)
    if page is not None:
        from tlimb.watch.page import write_progress

        write_progress(page, proposal.study.model_dump(), proposal.trials, settings)


if __name__ == "__main__":
    main()
