"""The three files of RANK."""

from pathlib import Path

import pandas as pd

from tlimb.files import write_csv, write_json, write_text
from tlimb.ranking.rank import Ranking


def write_ranking(ranking: Ranking, page: str, out: Path) -> None:
    """Write ranking.csv, ranking.json and report.html under `out`."""
    write_csv(out / "ranking.csv", pd.DataFrame(ranking.rows()).astype({"parameters": "Int64", "trainable": "Int64"}))
    write_json(out / "ranking.json", ranking.document())
    write_text(out / "report.html", page)
