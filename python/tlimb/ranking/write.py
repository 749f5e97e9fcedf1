"""The files of RANK but for figures and tables."""

from pathlib import Path

import pandas as pd

from tlimb.files import write_csv, write_json, write_text
from tlimb.ranking.rank import Ranking
from tlimb.ranking.results import Results
from tlimb.ranking.results_file import results_document
from tlimb.ranking.selection import ranked_measure


def write_ranking(ranking: Ranking, page: str, out: Path) -> None:
    """Write ranking.csv, ranking.json and report.html under `out`."""
    write_csv(out / "ranking.csv", pd.DataFrame(ranking.rows()).astype({"parameters": "Int64", "trainable": "Int64"}))
    write_json(out / "ranking.json", ranking.document())
    write_text(out / "report.html", page)


def write_results(results: Results, ranking: Ranking, out: Path) -> None:
    """Write results.json under `out`, what others can merge with theirs; nothing where no candidate was selected."""
    document = results_document(results, ranking.selected(), *ranked_measure(results))
    if document is not None:
        write_json(out / "results.json", document)
