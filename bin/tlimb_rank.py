#!/usr/bin/env python3
"""Rank the candidates of a search: ranking.csv, ranking.json and report.html."""

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
@click.option("--montages", type=FOLDER, help="Holds <recipe>/shard-*.montage.parquet; without it no scan is shown.")
@click.option("--cohort-table", type=FILE, help="cohort.parquet; its column `site`, if any, parts the scans' quality.")
@click.option("--encoders", required=True, type=FOLDER, help="Holds <encoder id>/ folders.")
@click.option("--models", required=True, type=FOLDER, help="Holds <trial id>/ folders of models.")
@click.option("--scores", required=True, type=FOLDER, help="Holds <trial id>/ folders of scores and predictions.")
@click.option("--template", required=True, type=FILE, help="Jinja template of the report.")
@click.option("--command", required=True, type=FILE, help="A file that holds the exact command of the run.")
@click.option("--out", required=True, type=FOLDER, help="Folder to write to.")
@told_plainly
def main(sweep, cohort_json, search, store, montages, cohort_table, encoders, models, scores, template, command, out):
    """Rank candidates on validation, write OUT/ranking.csv, ranking.json and report.html, print the answer."""
    from tlimb.ranking.quality import read_sites
    from tlimb.ranking.rank import rank
    from tlimb.ranking.report import render
    from tlimb.ranking.results import read_results
    from tlimb.ranking.write import write_ranking

    results = read_results(
        sweep=sweep, cohort=cohort_json, search=search, store=store, encoders=encoders, models=models, scores=scores
    )
    ranking = rank(results)
    texts = {"template": template.read_text("utf-8"), "command": command.read_text("utf-8")}
    page = render(results, ranking, **texts, montages=montages, sites=read_sites(cohort_table))
    write_ranking(ranking, page, out)
    click.echo(ranking.answer)


if __name__ == "__main__":
    main()
