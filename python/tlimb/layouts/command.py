"""`tlimb samplesheet`: write the samplesheet of a public archive."""

import os
from pathlib import Path

import click

from tlimb.command import told_plainly
from tlimb.errors import InputError, Problem, nearest
from tlimb.files import write_csv
from tlimb.layouts import LAYOUTS
from tlimb.layouts.archive import Archive, Scans
from tlimb.samplesheet import OPTIONAL, REQUIRED

FIRST = ["cohort", "subject", "session", "modality", "image", "mask", "confounds", "person"]
SHEETS = "\b\n" + "\n".join(f"  {name:9} {function.__doc__.splitlines()[0]}" for name, function in LAYOUTS.items())


def write_samplesheet(layout: str, archive: Archive, out: Path, cohort: str = "") -> Scans:
    """Write the samplesheet of an archive to `out` and return what stands in it.

    Paths inside the samplesheet's folder are written relative to it, others absolute. cohort: its name, else the
    layout's. Raises InputError where the root holds no such archive or the tables lack needed columns.
    """
    if layout not in LAYOUTS:
        raise InputError([Problem(layout, "unknown layout", nearest(layout, LAYOUTS))])
    if not archive.root.is_dir():
        raise InputError([Problem(str(archive.root), "no such folder")])
    scans = LAYOUTS[layout](archive)
    unknown = [name for name in archive.keep if name not in scans.frame]
    if unknown:
        every = {name for header in archive.headers.values() for name in header}
        raise InputError(
            [Problem("--label", f"no table has the column '{name}'", nearest(name, every)) for name in unknown]
        )
    frame = scans.frame.assign(cohort=cohort or layout)
    home = os.path.realpath(out.parent)
    frame["image"] = [_path(os.path.join(os.path.realpath(archive.root), image), home) for image in frame["image"]]
    frame = frame[[name for name in FIRST if name in frame] + [name for name in frame if name not in FIRST]]
    write_csv(out, frame.sort_values(["subject", "session", "modality"]))
    return Scans(frame, scans.remarks)


def _path(path: str, home: str) -> str:
    return os.path.relpath(path, home) if path.startswith(home + os.sep) else path


def told(scans: Scans, out: Path) -> str:
    """What was written, in a few lines."""
    frame = scans.frame
    kinds = ", ".join(f"{count} {name}" for name, count in frame["modality"].value_counts().items())
    labels = [name for name in frame if name not in REQUIRED + OPTIONAL]
    known = ", ".join(f"{name} ({(frame[name] != '').sum()})" for name in labels) or "none"
    lines = [f"{out}: {len(frame)} scans of {frame['subject'].nunique()} subjects ({kinds})", f"labels: {known}"]
    return "\n".join([*lines, *scans.remarks])


@click.command(epilog=SHEETS)
@click.argument("layout", type=click.Choice(list(LAYOUTS)), metavar="LAYOUT")
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Samplesheet to write (CSV).")
@click.option(
    "--table",
    "tables",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Table of the archive's labels (CSV or TSV).",
)
@click.option(
    "--label", "keep", multiple=True, metavar="COLUMN", help="A further column of the tables to take as a label."
)
@click.option("--cohort", default="", help="Name of the cohort; the layout's otherwise.")
@told_plainly
def samplesheet(layout: str, root: Path, out: Path, tables: tuple[Path, ...], keep: tuple[str, ...], cohort: str):
    """Write a samplesheet of a public archive that lies at ROOT.

    Images in formats that preprocessing does not read are converted, into a folder beside the samplesheet.
    """
    images = out.parent.absolute() / f"{out.stem}-images"
    click.echo(told(write_samplesheet(layout, Archive(root, tables, images, keep), out, cohort), out))
