"""The report's figures for print: SVG and PDF, told apart without colour too, the same bytes for the same numbers."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tlimb.files import replacing
from tlimb.ranking.answer import WORDS
from tlimb.ranking.results import Results
from tlimb.ranking.sections.looks import coloured_by, explained, layout_table, layouts_of
from tlimb.ranking.sections.search import LEAST_POINTS, best_so_far, search_points, settings
from tlimb.ranking.sections.cost import time_unit
from tlimb.ranking.sections.sizes import fitted_curve

INK, SOFT, FAINT = "#1d2329", "#5d6873", "#9aa3aa"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Told apart with any kind of colour vision. Okabe M, Ito K. Color universal design. 2008."""
CURVES = (("before", COLOURS[1], "s", "as trained"), ("after", COLOURS[0], "o", "scaled"))
MARKERS = ("o", "s", "^", "D", "v", "P")
MOST_ROWS, MOST_PANELS, MOST_SETTINGS = 30, 4, 12
STYLE = {
    "font.size": 9,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": None,
    "grid.color": "#dde1e3",
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "tlimb",
    "pdf.fonttype": 42,
}


def write_figures(document: dict, out: Path, results: Results | None = None, effects: dict | None = None) -> list[str]:
    """Write <name>.svg and <name>.pdf under `out` for every figure that there are numbers of; their names.

    document: the content of ranking.json. results: for the search's progress, settings and features, which ranking.json
    does not hold; without them these are left out. effects: what `settings` gave, where it was asked before. Text stays
    text in both.
    """
    from matplotlib import cycler, rc_context
    from matplotlib.figure import Figure

    written = []
    draws = {name: partial(draw, document=document) for name, draw in FIGURES.items()}
    draws |= _of_results(document, results, effects) if results else {}
    for name, draw in draws.items():
        with rc_context(STYLE | {"axes.prop_cycle": cycler(color=COLOURS)}):
            figure = Figure(layout="constrained")
            if draw(figure):
                _save(figure, out, name)
                written.append(name)
    return written


def _of_results(document: dict, results: Results, effects: dict | None) -> dict[str, Callable]:
    """Name -> what draws a figure that needs more than ranking.json, given a figure."""
    found, word = effects or settings(results, document["candidates"]), WORDS[document["metric"]]
    return {
        "progress": partial(_progress, document=document, results=results),
        "settings": partial(_settings, effects=found["effects"][:MOST_SETTINGS], word=word),
        "importances": partial(_importances, found=found["importances"]),
        "features": partial(_features, document=document, results=results),
    }


def _save(figure, out: Path, name: str) -> None:
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # found once for both files
    for ending, undated in (("svg", {"Date": None}), ("pdf", {"CreationDate": None})):
        with replacing(out / f"{name}.{ending}") as path:
            figure.savefig(path, format=ending, metadata=undated)


def _ranking(figure, document: dict) -> bool:
    """Dots and intervals of the first candidates on validation and, of the selected, on test."""
    rows = [row for row in document["candidates"] if row["validation_mean"] is not None]
    rows = [row for place, row in enumerate(rows) if place < MOST_ROWS or row["selected"]]
    axes = _forest(figure, [row["name"] for row in rows])
    for part, colour, marker, shift in (("validation", COLOURS[1], "o", -0.13), ("test", COLOURS[0], "s", 0.13)):
        shown = [(place + shift, row) for place, row in enumerate(rows) if row[f"{part}_mean"] is not None]
        for place, row in shown:
            if row[f"{part}_low"] is not None:
                axes.hlines(place, row[f"{part}_low"], row[f"{part}_high"], color=colour, lw=1.4)
        x, y = [row[f"{part}_mean"] for _, row in shown], [place for place, _ in shown]
        face = "white" if part == "validation" else colour
        axes.plot(x, y, marker, color=colour, markerfacecolor=face, ms=5, label=part)
    axes.set_xlabel(WORDS[document["metric"]])
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return bool(rows)


def _comparisons(figure, document: dict) -> bool:
    """Differences on test, the best minus each other selected candidate."""
    rows, names = document["comparisons"], {row["candidate"]: row["name"] for row in document["candidates"]}
    axes = _forest(figure, [f"minus {names[row['b']]}" for row in rows])
    for place, row in enumerate(rows):
        if row["low"] is not None:
            axes.hlines(place, row["low"], row["high"], color=COLOURS[0], lw=1.4)
        axes.plot(row["difference"], place, "s", color=COLOURS[0], ms=5)
    axes.axvline(0, color=SOFT, ls="--", lw=0.9)
    axes.set_xlabel(f"difference in {WORDS[document['metric']]} on test")
    return bool(rows)


def _pareto(figure, document: dict) -> bool:
    """Score on validation against training time with pretraining and against parameters, of those held against each
    other."""
    rows = [row for row in document["candidates"] if row.get("pareto") is not None]
    seconds = [row["seconds"] + row["pretraining_seconds"] for row in rows]
    size, unit = time_unit(seconds)
    costs = {
        f"training with pretraining ({unit})": [value / size for value in seconds],
        "parameters (millions)": [row["parameters"] / 1e6 for row in rows],
    }
    costs = {title: values for title, values in costs.items() if len(set(values)) > 1}
    if not costs:
        return False
    figure.set_size_inches(3.6 * len(costs), 3)
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    for axes, (title, values) in zip(panels, costs.items()):
        for front, colour, marker, label in ((False, FAINT, "o", "others"), (True, COLOURS[0], "s", "on the front")):
            shown = [(x, row["validation_mean"]) for x, row in zip(values, rows) if bool(row.get("pareto")) == front]
            axes.plot([x for x, _ in shown], [y for _, y in shown], marker, color=colour, ms=5, label=label)
        axes.set_xlabel(title)
        axes.grid(True)
    panels[0].set_ylabel(f"{WORDS[document['metric']]} on validation")
    panels[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return True


def _critical_difference(figure, document: dict) -> bool:
    """Mean ranks over data sets on a line, bars over those that can't be told apart (Demsar 2006, figure 1)."""
    found = document.get("friedman")
    if not found:
        return False
    ranks, names = found["ranks"], {row["candidate"]: row["mean_rank"] for row in found["ranks"]}
    bars = [group for group in found["groups"] if len(group) > 1]
    many, margin = len(ranks), 0.4 * (len(ranks) - 1)
    half = (many + 1) // 2
    figure.set_size_inches(7, 0.8 + 0.24 * half + 0.14 * len(bars))
    axes = figure.subplots()
    axes.set(xlim=(1 - margin, many + margin), xticks=range(1, many + 1), yticks=[])
    axes.xaxis.tick_top()
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.spines["top"].set(visible=True, bounds=(1, many))
    axes.set_xlabel("mean rank")
    axes.xaxis.set_label_position("top")
    depth = 0.7 + 0.35 * len(bars)
    for place, group in enumerate(bars):
        ends = [names[candidate] for candidate in group]
        axes.hlines(-0.6 - 0.35 * place, min(ends) - 0.04, max(ends) + 0.04, color=INK, lw=3)
    for place, row in enumerate(ranks):
        y = -depth - 0.6 * (place if place < half else many - 1 - place)
        end, side = (1 - 0.05 * many, "right") if place < half else (many + 0.05 * many, "left")
        axes.plot([row["mean_rank"], row["mean_rank"], end], [0, y, y], color=SOFT, lw=0.9)
        axes.text(end, y, f" {row['name']} ({row['mean_rank']:.2f}) ", ha=side, va="center")
    axes.set_ylim(-depth - 0.6 * half, 0)
    width = found["critical_difference"]
    axes.hlines(-0.2, 1, 1 + width, color=COLOURS[1], lw=2)
    axes.text(1 + width, -0.2, f" CD {width:.2f}", color=COLOURS[1], va="center")
    return True


def _learning_curves(figure, document: dict) -> bool:
    """Score on test against training persons, a curve a strategy, with accepted power laws."""
    found = document.get("learning_curves")
    if not found:
        return False
    figure.set_size_inches(5, 3.4)
    axes = figure.subplots()
    for curve, colour, marker in zip(found["curves"], COLOURS * 9, MARKERS * 9):
        points = [point for point in curve["points"] if point["mean"] is not None]
        fitted, n = fitted_curve(curve["fit"], found["sizes"]), [point["n"] for point in points]
        style = {"color": colour, "marker": marker, "ms": 5, "lw": 0 if fitted else 1.2, "label": curve["strategy"]}
        axes.plot(n, [point["mean"] for point in points], **style)
        for point in (point for point in points if point["low"] is not None):
            axes.vlines(point["n"], point["low"], point["high"], color=colour, lw=0.9)
        if fitted:
            axes.plot(*fitted, color=colour, lw=1.2, ls="--")
    axes.set(xscale="log", xlabel="training persons", ylabel=f"{WORDS[document['metric']]} on test")
    axes.set_xticks(found["sizes"], found["sizes"])
    axes.set_xticks([], minor=True)
    axes.grid(True)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return True


def _groups(figure, document: dict) -> bool:
    """Scores of the best candidate by group on every set, a row a group."""
    entries = [one for one in document.get("groups") or [] if one["candidate"] == document["best"]]
    rows = [(one, group) for one in entries for group in one["groups"] if group["value"] is not None]
    sets = [one["set"].removeprefix("external-") for one, _ in rows]
    names = [f"{one['column']}: {group['group']} ({group['n_persons']})" for one, group in rows]
    axes = _forest(figure, [f"{part}, {name}" for part, name in zip(sets, names)])
    for place, (one, group) in enumerate(rows):
        axes.vlines(one["value"], place - 0.5, place + 0.5, color=SOFT, ls="--", lw=0.9)
        if group["low"] is not None:
            axes.hlines(place, group["low"], group["high"], color=COLOURS[0], lw=1.4)
        axes.plot(group["value"], place, "o", color=COLOURS[0], ms=5)
    axes.set_xlabel(f"{WORDS[document['metric']]}; dashed: everybody")
    return bool(rows)


def _calibration(figure, document: dict) -> bool:
    """Reliability curves of the selected candidates on test, before and after temperature scaling."""
    rows = [one for one in document.get("calibration") or [] if one["set"] == "test"][:MOST_PANELS]
    figure.set_size_inches(2.4 * max(1, len(rows)), 2.9)
    panels = figure.subplots(1, max(1, len(rows)), sharey=True, squeeze=False)[0]
    for axes, one in zip(panels, rows):
        axes.plot([0, 1], [0, 1], color=SOFT, ls="--", lw=0.9)
        for part, colour, marker, label in CURVES:
            bins = one[part]["bins"]
            x, y = [found["confidence"] for found in bins], [found["observed"] for found in bins]
            axes.plot(x, y, color=colour, marker=marker, ms=4, lw=1.2, label=label)
            if part == "after":
                low, high = ([found[end] for found in bins] for end in ("low", "high"))
                axes.vlines(x, low, high, color=colour, lw=0.8)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel=one["of"])
        axes.set_title(one["name"], fontsize=9)
        axes.grid(True)
    panels[0].set_ylabel("observed share")
    if rows:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return bool(rows)


def _progress(figure, document: dict, results: Results) -> bool:
    """Best validation score so far against the epochs trained, a point for each candidate at each budget."""
    points = search_points(results, document["candidates"])
    if len(points) < LEAST_POINTS:
        return False
    figure.set_size_inches(5.6, 3.4)
    axes = figure.subplots()
    budgets = sorted({point["budget"] for point in points})
    styles = dict(zip(budgets, zip(COLOURS[1:] * 9, MARKERS * 9)))
    for one in best_so_far(points, document["direction"]):
        colour = styles.get(one["budget"], COLOURS)[0]
        axes.plot(one["x"], one["y"], color=colour, lw=1.4, drawstyle="steps-post", label=one["name"])
    for budget, (colour, marker) in styles.items():
        held = [point for point in points if point["budget"] == budget]
        label = f"{budget} epochs" if len(budgets) > 1 else "candidates"
        x, y = ([point[key] for point in held] for key in ("trained", "value"))
        axes.plot(x, y, marker, color=colour, markerfacecolor="white", ms=4.5, label=label)
    axes.set(xlabel="epochs trained, all trials together", ylabel=f"{WORDS[document['metric']]} on validation")
    axes.set_xlim(left=0)
    axes.grid(True)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return True


def _settings(figure, effects: list[dict], word: str) -> bool:
    """A panel a setting: the mean over the candidates with each value, and these as small dots."""
    if not effects:
        return False
    across = min(2, len(effects))
    down = math.ceil(len(effects) / across)
    rows = [max(len(one["values"]) for one in effects[across * row : across * (row + 1)]) for row in range(down)]
    figure.set_size_inches(3.7 * across, 0.7 + sum(0.55 + 0.26 * count for count in rows))
    given = {"squeeze": False, "sharex": True, "height_ratios": [count + 0.6 for count in rows]}
    panels = list(figure.subplots(down, across, **given).flat)
    for axes, effect in zip(panels, effects):
        _rows(axes, [f"{group['value']} ({len(group['scores'])})" for group in effect["values"]])
        for place, group in enumerate(effect["values"]):
            axes.plot(group["scores"][:100], [place] * len(group["scores"][:100]), "o", color=FAINT, ms=3, alpha=0.6)
            axes.plot(group["mean"], place, "s", color=COLOURS[0], ms=5)
        axes.set_title(effect["name"], fontsize=9, loc="left")
        axes.tick_params(labelbottom=True)
    for axes in panels[len(effects) :]:
        axes.set_axis_off()
    figure.supxlabel(f"{word} on validation; squares: mean over candidates (their number)", fontsize=9)
    return True


def _importances(figure, found: dict | None) -> bool:
    """Permutation importances, where the forest foretells anything."""
    if not found or found["explained"] <= 0:
        return False
    rows = found["settings"][:MOST_ROWS]
    axes = _forest(figure, [row["name"] for row in rows])
    axes.barh(range(len(rows)), [row["importance"] for row in rows], height=0.55, color=COLOURS[0])
    share = f"the forest explains {100 * found['explained']:.0f}% of {found['candidates']} candidates’ scores"
    axes.set_xlabel(f"permutation importance; {share}")
    return True


def _features(figure, document: dict, results: Results) -> bool:
    """The best one's held-out scans in every layout (columns), coloured by target, site and age (rows)."""
    found = [one for one in explained(results, document["candidates"]) if one[1]["candidate"] == document["best"]]
    if not found or found[0][1]["features"]["status"] != "ok":
        return False
    table = layout_table(found[0][0], found[0][1]["features"])
    named = {name.lower(): name for name in table}
    wanted = [document["target"], *(named[name] for name in ("site", "age") if name in named)]
    columns = [name for name in dict.fromkeys(wanted) if name in table and table[name].notna().any()]
    layouts = layouts_of(table)
    figure.set_size_inches(2.4 * len(layouts) + 1.2, 2.3 * max(1, len(columns)) + 0.2)
    panels = figure.subplots(max(1, len(columns)), len(layouts), squeeze=False)
    panels = list(panels)
    for across, column in zip(panels, columns or [None]):
        colours = {"names": ["scans"] * len(table)} if column is None else coloured_by(table[column])
        for axes, (name, (x, y)) in zip(across, layouts.items()):
            shown = _scatter(axes, table[x].to_numpy(), table[y].to_numpy(), colours)
            axes.set(xticks=[], yticks=[])
            axes.set_title(name if across is panels[0] else "", fontsize=9)
        across[0].set_ylabel(column)
        if "numbers" in colours:
            figure.colorbar(shown, ax=across[-1], shrink=0.9).outline.set_visible(False)
        else:
            across[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0.2, borderpad=0)
    return True


def _scatter(axes, x, y, colours: dict):
    """Points by what `coloured_by` gives: shaded by numbers, or a colour and marker for each name; grey the rest."""
    if "numbers" in colours:
        numbers = [math.nan if value is None else value for value in colours["numbers"]]
        lost = [math.isnan(value) for value in numbers]
        axes.plot(x[lost], y[lost], "x", color=FAINT, ms=3)
        return axes.scatter(x, y, c=numbers, s=9, cmap="viridis", linewidths=0)
    rest = ("other", "not known")
    known = sorted({name for name in colours["names"] if name not in rest})
    for name, colour, marker in zip(known, COLOURS, MARKERS):
        held = [one == name for one in colours["names"]]
        axes.plot(x[held], y[held], marker, color=colour, ms=3, alpha=0.8, label=name)
    for name in (name for name in rest if name in colours["names"]):
        held = [one == name for one in colours["names"]]
        axes.plot(x[held], y[held], "x", color=FAINT, ms=3, label=name)
    return None


def _forest(figure, names: list[str]):
    """Axes with a row for each name, the first at the top."""
    figure.set_size_inches(7, 0.9 + 0.32 * max(1, len(names)))
    return _rows(figure.subplots(), names)


def _rows(axes, names: list[str]):
    axes.set_yticks(range(len(names)), names, color=INK)
    axes.set_ylim(max(1, len(names)) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)
    return axes


FIGURES = {
    "ranking": _ranking,
    "comparisons": _comparisons,
    "cost": _pareto,
    "critical-difference": _critical_difference,
    "groups": _groups,
    "learning-curves": _learning_curves,
    "calibration": _calibration,
}
"""Name of the files -> what draws them: given a figure and ranking.json, False where there is nothing to draw."""
