#!/usr/bin/env python3
"""Rank the candidates of a search: ranking.csv, ranking.json and report.html."""

from pathlib import Path

import click

from tlimb.command import told_plainly

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
TEMPLATE = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--sweep", required=True, type=FILE, help="sweep.json with every default filled in.")
@click.option("--cohort-json", required=True, type=FILE, help="cohort.json.")
@click.option("--search", required=True, type=FOLDER, help="Holds round-<k>/trials.jsonl and pretrainings.jsonl.")
@click.option("--store", required=True, type=FOLDER, help="Holds <recipe>/shard-*.parquet and .json.")
@click.option("--montages", type=FOLDER, help="Holds <recipe>/shard-*.montage.parquet; without it no scan is shown.")
@click.option("--cohort-table", type=FILE, help="cohort.parquet: sites of scans, columns that scores are shown by.")
@click.option("--encoders", required=True, type=FOLDER, help="Holds <encoder id>/ folders.")
@click.option("--models", required=True, type=FOLDER, help="Holds <trial id>/ folders of models.")
@click.option("--scores", required=True, type=FOLDER, help="Holds <trial id>/ folders of scores and predictions.")
@click.option("--explanations", type=FOLDER, help="Holds <trial id>/ folders of what EXPLAIN wrote.")
@click.option("--probes", type=FOLDER, help="Holds a folder for each probe job.")
@click.option("--template", required=True, type=TEMPLATE, help="Folder of the report's Jinja templates.")
@click.option("--command", required=True, type=FILE, help="A file that holds the exact command of the run.")
@click.option("--out", required=True, type=FOLDER, help="Folder to write to.")
@told_plainly
def main(sweep, cohort_json, montages, cohort_table, template, command, out, **folders):
    """Rank candidates on validation, print the answer, write OUT/ranking.csv, ranking.json, results.json, report.html,
    figures/ and tables/."""
    from tlimb.ranking.plots import write_figures
    from tlimb.ranking.quality import read_sites
    from tlimb.ranking.rank import rank
    from tlimb.ranking.report import render
    from tlimb.ranking.results import read_results
    from tlimb.ranking.sections.search import settings
    from tlimb.ranking.tables import write_tables
    from tlimb.ranking.write import write_ranking, write_results

    results = read_results(sweep=sweep, cohort=cohort_json, table=cohort_table, **folders)
    ranking = rank(results)
    shown = {"command": command.read_text("utf-8"), "montages": montages, "sites": read_sites(cohort_table)}
    effects = settings(results, ranking.candidates)
    page = render(results, ranking, template=template, effects=effects, **shown)
    write_ranking(ranking, page, out)
    write_results(results, ranking, out)
    document = ranking.document()
    write_tables(document, results.trials, out / "tables")
    write_figures(document, out / "figures", results, effects)
    click.echo("\n".join([ranking.answer, *ranking.cautions]))


if __name__ == "__main__":
    main()
