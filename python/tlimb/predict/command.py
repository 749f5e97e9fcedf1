"""The command `tlimb predict`."""

import os
import sys
from pathlib import Path

import click

from tlimb.command import told_plainly
from tlimb.errors import InputError, Problem

FILE = click.Path(dir_okay=False, path_type=Path)
SHOWN = 20
"""Rows that are printed, too."""


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@click.command("predict")
@click.argument("paths", nargs=-1, required=True, metavar="MODEL... SCANS...", type=click.Path(path_type=Path))
@click.option("--out", default="predictions.csv", show_default=True, type=FILE, help="Table to write.")
@click.option("--modality", multiple=True, help="Take scans of this modality only; may be repeated.")
@click.option("--confidence", type=click.FloatRange(0.5, 1, True, True), help="Coverage of sets and intervals.")
@click.option("--dropout", metavar="T", type=click.IntRange(2), help="Passes with dropout left on, for their spread.")
@click.option("--atlas", type=click.Path(path_type=Path), help="Where the atlas of a recipe of time series lies now.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Folder to leave prepared scans in.")
@click.option("--threads", default=_cores, show_default="all cores", type=click.IntRange(1), help="Of every step.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="A GPU where one answers if left out.")
@click.option("--trusted", multiple=True, metavar="MODULE", help="Allow classes of this module by import path.")
@told_plainly
def predict_command(paths: tuple[Path, ...], out: Path, confidence: float | None, dropout: int | None, **given):
    """Predict new scans: image files, folders (NIfTI or BIDS) or samplesheets, by one or several trained models.

    A MODEL is a folder with model.json, such as results/models/<trial>; several are averaged. The folder of a run's
    results stands for the models that it ranked best. Each scan goes through the model's own preprocessing.

    The table has a row a scan and target. A scan that cannot be prepared keeps its row, with the reason; exit status 1
    says that none could be predicted.
    """
    from tlimb.files import write_csv
    from tlimb.predict.run import Options, asked, predicted

    sys.path.append(os.getcwd())  # modules of the user's own
    options = Options(coverage=confidence, dropout=dropout or 0, **given)
    if out.resolve() in {path.resolve() for path in paths}:
        raise InputError([Problem(f"--out {out}", "is one of the inputs", "name another file")])
    models, scans, notes = asked(paths, options)
    for note in notes:
        click.echo(note, err=True)
    table, notes = predicted(models, scans, options)
    write_csv(out, table)
    _tell(table, notes, out, len(models.folders))
    if not (table["status"] == "ok").any():
        sys.exit(1)


def _tell(table, notes: list[str], out: Path, models: int) -> None:
    """What a person who waits wants to know: the first rows on stdout, trouble on stderr."""
    from tlimb.labels import some

    scans = table.drop_duplicates("scan")
    failed = scans[scans["status"] != "ok"]
    for scan, reason in zip(failed["scan"], failed["reason"]):
        click.echo(f"{scan}: {reason}", err=True)
    warned = scans[(scans["status"] == "ok") & (scans["warnings"] != "")]
    for note in notes:
        click.echo(note, err=True)
    if len(warned):
        click.echo(f"warnings of {len(warned)} scans, in the last column: {some(warned['scan'])}", err=True)
    for row in table[table["status"] == "ok"].head(SHOWN).to_dict("records"):
        click.echo(_line(row))
    by = f" by {models} models" if models > 1 else ""
    click.echo(f"{out}: {len(scans) - len(failed)} of {len(scans)} scans predicted{by}")


def _line(row: dict) -> str:
    """A row in words: `sub-01: diagnosis patient (0.81)`, `sub-01: age 63.2 [55.1, 71.3]`."""
    value = row["prediction"]
    if isinstance(value, str):
        sure = row.get(f"probability_{value}")
        return f"{row['scan']}: {row['target']} {value}" + (f" ({sure:.2f})" if sure is not None else "")
    low, high = row.get("low", float("nan")), row.get("high", float("nan"))
    return f"{row['scan']}: {row['target']} {value:.4g}" + (f" [{low:.4g}, {high:.4g}]" if low == low else "")
