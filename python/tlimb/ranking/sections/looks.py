"""What the selected networks look at, how their features lie and what autoencoders rebuild: EXPLAIN's files."""

from base64 import b64encode
from pathlib import Path

import pandas as pd

from tlimb.files import read_json
from tlimb.ranking.figures import Series, axis, brief, plot
from tlimb.ranking.rank import Ranking
from tlimb.ranking.results import Results

METHODS = {
    "occlusion": "Occlusion",
    "integrated_gradients": "Integrated gradients",
    "grad_cam": "Grad-CAM",
    "attention": "Attention",
}
LAYOUTS = {"PCA": ("pc1", "pc2"), "t-SNE": ("tsne1", "tsne2"), "UMAP": ("umap1", "umap2")}
MOST_BYTES = 1_200_000
"""Of all pictures of this part together; further ones are named by their files."""
MOST_SCANS = 600
"""Of a network's features that the page draws, evenly out of those in features.parquet."""
MOST_NAMES = 6
"""Values of a text column that get a colour of their own."""


def looks(results: Results, ranking: Ranking) -> list[dict]:
    """A row for each explained candidate, the best first: {"name", "facts", "methods", "features", "printed", "codes"}.

    Empty where no explanation was made. printed: whether its features stand among the figures for print.
    """
    stages = {line["id"]: line["stage"] for line in results.pretrainings}
    purse, found = Purse(MOST_BYTES), explained(results, ranking.candidates)
    return [
        {
            "name": facts["name"],
            "facts": facts,
            "methods": [_method(path, name, method, purse) for name, method in facts["methods"].items()],
            "features": _features(path, facts, ranking.target),
            "printed": facts["candidate"] == ranking.best,
            "codes": _codes(path, facts, purse, stages),
        }
        for path, facts in found
    ]


def explained(results: Results, candidates: list[dict]) -> list[tuple[Path, dict]]:
    """(folder, explain.json) of each explained trial, by its candidate's rank. candidates: rows of ranking.json."""
    places = {row["candidate"]: row["rank"] for row in candidates}
    folder = results.explanations
    found = [(path.parent, read_json(path)) for path in sorted(folder.glob("*/explain.json"))] if folder else []
    found = [one for one in found if one[1]["candidate"] in places]
    return sorted(found, key=lambda one: (places[one[1]["candidate"]], one[1]["id"]))


class Purse:
    """So many bytes of pictures as may still be put into the page."""

    def __init__(self, bytes_left: int):
        self.bytes_left = bytes_left

    def picture(self, path: Path) -> str | None:
        """A PNG as `data:` URI, None where it is missing or there is no room for it any more."""
        size = path.stat().st_size * 4 // 3 if path.exists() else 0
        if not 0 < size <= self.bytes_left:
            return None
        self.bytes_left -= size
        return "data:image/png;base64," + b64encode(path.read_bytes()).decode("ascii")


def _method(folder: Path, name: str, facts: dict, purse: Purse) -> dict:
    maps = [one | {"picture": purse.picture(folder / one["png"])} for one in facts.get("maps", [])]
    for number, one in enumerate(maps):
        one["profile"] = _profile(f"{folder.name}-{name}-{number}", one)
    return facts | {"name": METHODS.get(name, name), "maps": maps, "folder": folder.name}


def _profile(name: str, facts: dict) -> dict | None:
    """Weights of slices along their axis, where a network weighs slices."""
    slices = facts.get("slices")
    if not slices:
        return None
    x = slices["mm"] or list(range(len(slices["weights"])))
    unit = "mm" if slices["mm"] else "slice"
    label = f"Weight of {slices['axis']} slices, the largest {max(slices['weights']):.3f}."
    titles = (f"{slices['axis']} ({unit})", "weight")
    series = [Series("weight", x, slices["weights"], line=True, dots=False)]
    return plot(name, series, titles=titles, label=label, x=axis(x), y=axis([0.0, *slices["weights"]]))


def _features(folder: Path, facts: dict, target: str) -> dict | None:
    """The scans' features in two dimensions, coloured by a label; static by PCA, live with every layout and column."""
    found = facts["features"]
    if found["status"] != "ok":
        return found | {"figure": None}
    table = layout_table(folder, found)
    columns = [target, *(name for name in found["columns"] if name != target)]
    columns = [name for name in columns if name in table and table[name].notna().any()]
    layouts = layouts_of(table)
    x, y = table["pc1"].tolist(), table["pc2"].tolist()
    shares = [f"{100 * share:.0f}%" for share in found["explained_variance"]]
    titles = (f"first component ({shares[0]})", f"second component ({shares[1]})")
    label = f"{len(table)} held-out scans by the first two principal components of their features in {facts['name']}."
    more = {"titles": titles, "label": label, "x": axis(x), "y": axis(y)}
    figure = plot(f"features-{folder.name}", _coloured(table, columns), **more)
    texts = [f"{scan} ({name})" for scan, name in zip(table["scan_id"], table["set"], strict=True)]
    figure["live"] = {
        "draws": "features",
        "layouts": {name: [_numbers(table[one]) for one in pair] for name, pair in layouts.items()},
        "titles": {"PCA": titles},
        "columns": {name: coloured_by(table[name]) for name in columns},
        "texts": texts,
    }
    return found | {"figure": figure, "layouts": list(layouts), "columns": columns, "shown": len(table)}


def layout_table(folder: Path, found: dict) -> pd.DataFrame:
    """features.parquet of an explained trial, at most MOST_SCANS rows; found: `features` of its explain.json."""
    table = pd.read_parquet(folder / found["file"])
    return table.iloc[:: -(-len(table) // MOST_SCANS)]


def layouts_of(table: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Name -> its two columns, of the layouts that there were enough scans for."""
    return {name: pair for name, pair in LAYOUTS.items() if table[list(pair)].notna().all(axis=None)}


def _coloured(table: pd.DataFrame, columns: list[str]) -> list[Series]:
    """Principal components, a series for each value of the first column; numbers in two halves."""
    if not columns:
        return [Series("scans", table["pc1"].tolist(), table["pc2"].tolist())]
    values = table[columns[0]]
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > MOST_NAMES:
        middle = values.median()
        names = {True: f"{columns[0]} above {middle:g}", False: f"{columns[0]} up to {middle:g}"}
        values = (values > middle).map(names)
    groups = list(table.groupby(values.astype(str), sort=True))[:MOST_NAMES]
    return [Series(name, part["pc1"].tolist(), part["pc2"].tolist(), f"c{i}") for i, (name, part) in enumerate(groups)]


def coloured_by(values: pd.Series) -> dict:
    """{"numbers": [...]} of a column of many numbers, null where one is not known; else {"names": [...]} of at most
    MOST_NAMES values, `other` and `not known`."""
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > MOST_NAMES:
        return {"numbers": _numbers(values)}
    texts = values.astype(str).where(values.notna(), "not known")
    common = texts.value_counts().index[:MOST_NAMES]
    return {"names": texts.where(texts.isin(common), "other").tolist()}


def _numbers(values: pd.Series) -> list:
    return [brief(value, 4) for value in values.astype(float)]


def _codes(folder: Path, facts: dict, purse: Purse, stages: dict[str, str]) -> dict | None:
    """Reconstructions beside their inputs, and histograms of the code between encoder and decoder.

    stages: id of a pretraining -> the name of its stage, by which reasons call it.
    """
    found = facts.get("reconstructions")
    for network, name in ({facts["id"]: "this network"} | stages).items() if found else ():
        found = found | {"reason": found["reason"].replace(network, name)}
    if not found or not found.get("networks"):
        return found and found | {"networks": []}
    networks = []
    for one in found["networks"]:
        bars = {name: _histogram(one["code"][name]) for name in ("values", "means") if one.get("code", {}).get(name)}
        networks.append(one | {"picture": purse.picture(folder / one["png"]), "bars": bars})
    return found | {"networks": networks, "folder": folder.name}


def _histogram(found: dict) -> dict:
    """Bars in percent of the tallest, with an axis of their edges."""
    edges, counts = found["edges"], found["counts"]
    x, top = axis(edges, count=4), max(counts) or 1
    x_of = [x.place(edge) for edge in edges]
    bars = [(a, round(b - a, 3), round(100 * n / top, 2)) for a, b, n in zip(x_of[:-1], x_of[1:], counts, strict=True)]
    return {"x": x, "bars": bars, "near_zero": found["near_zero"], "low": edges[0], "high": edges[-1]}
