"""`tlimb merge`: results of several runs, ranked together."""

from pathlib import Path

import click

from tlimb.command import told_plainly


@click.command("merge")
@click.argument("results", nargs=-1, required=True, metavar="[LABEL=]RESULTS...")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write to.")
@told_plainly
def merge_command(results: tuple[str, ...], out: Path):
    """Rank the methods of several runs over all their data sets, into OUT/merged.json, merged.csv and merged.md.

    RESULTS is a results.json or the folder of a run. Methods of files with one LABEL, or with none, are taken to be the
    same where they have the same name; runs that measured a data set differently can't be merged.
    """
    from tlimb.errors import InputError
    from tlimb.ranking.merge import markdown, merge, read_part, write_merged

    parts, problems = [], []
    for given in results:
        try:
            parts.append(read_part(given))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    merged = merge(parts)
    write_merged(merged, out)
    click.echo(markdown(merged))
