"""How many lines a user writes to pretrain on age and fine-tune on sex: by hand, and with tlimb.

python benchmarks/lines.py [--by-hand OUT] [--tlimb OUTDIR]

Both files are counted by cloc (lines of code without blank lines, comments and docstrings), which is taken from PATH or
by npx. With the folders that the two programs left, their scores are printed as well.
"""

import ast
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import click
import pandas as pd

from tlimb.files import read_json

FOLDER = Path(__file__).parent / "lines"
BY_HAND, WITH_TLIMB = FOLDER / "by_hand.py", FOLDER / "with_tlimb.json"
PARTS = {"LightningDataModule": "data module", "Dataset": "dataset", "LightningModule": "Lightning module"}
PAPER = {"total": ("286", "34"), "data module": ("81", "-"), "dataset": ("34", "34"), "Lightning module": ("51", "-")}
PAPER |= {"rest (losses, architecture, imports)": ("125", "-")}


@click.command(help=__doc__)
@click.option("--by-hand", type=click.Path(path_type=Path, exists=True), help="OUT of by_hand.py.")
@click.option("--tlimb", type=click.Path(path_type=Path, exists=True), help="outdir of the run of with_tlimb.json.")
def main(by_hand: Path | None, tlimb: Path | None):
    """Print Markdown tables."""
    counts = counted_by_hand()
    spread = counted({"sweep.json": json.dumps(read_json(WITH_TLIMB), indent=2)})
    print("| source lines | by hand | with tlimb | by hand, in the paper | with its framework |\n|---|---|---|---|---|")
    for name, figures in PAPER.items():
        own = counted({"sweep.json": WITH_TLIMB.read_text()}) if name == "total" else "-"
        print(f"| {name} | {counts[name]} | {own} | {' | '.join(figures)} |")
    print(f"\nWith every key and value of the sweep on a line of its own it has {spread} lines.")
    if by_hand and tlimb:
        print("\n" + scores(by_hand, tlimb))


def counted_by_hand() -> dict[str, int]:
    """Row of the table -> lines of by_hand.py: its classes by what they inherit from, and all else."""
    source = BY_HAND.read_text()
    found = {"total": counted({BY_HAND.name: source})}
    for node in ast.parse(source).body:
        base = ast.unparse(node.bases[0]).rpartition(".")[2] if isinstance(node, ast.ClassDef) else ""
        if base in PARTS:
            found[PARTS[base]] = counted({"part.py": ast.get_source_segment(source, node)})
    return found | {"rest (losses, architecture, imports)": found["total"] - sum(list(found.values())[1:])}


def counted(files: dict[str, str]) -> int:
    """Lines of code in some texts by the names of their files, as cloc counts them."""
    cloc = ["cloc"] if shutil.which("cloc") else ["npx", "--yes", "cloc"]
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text)
        told = subprocess.run([*cloc, "--json", folder], capture_output=True, text=True)
    if told.returncode:
        raise click.ClickException(told.stderr or "cloc failed")
    return json.loads(told.stdout)["SUM"]["code"]


def scores(by_hand: Path, tlimb: Path) -> str:
    """A table of what both reach on the people whom they hold out, mean and standard deviation over seeds."""
    own = pd.read_csv(by_hand / "scores.csv")
    errors = [metrics(path, "age")["mae"]["value"] for path in tlimb.glob("encoders/*/scores.json")]
    right = [metrics(path, "sex")["balanced_accuracy"]["value"] for path in tlimb.glob("scores/*/scores-test.json")]
    lines = [f"| held out, {len(own)} seeds | by hand | with tlimb |\n|---|---|---|"]
    for name, first, second in (
        ("age, mean absolute error (years)", own["age_mae"], pd.Series(errors)),
        ("sex, balanced accuracy", own["sex_balanced_accuracy"], pd.Series(right)),
    ):
        lines.append(f"| {name} | " + " | ".join(f"{of.mean():.3f} ± {of.std():.3f}" for of in (first, second)) + " |")
    return "\n".join(lines)


def metrics(path: Path, target: str) -> dict:
    """The metrics of a target in a file of scores."""
    return read_json(path)["targets"][target]["metrics"]


if __name__ == "__main__":
    main()
