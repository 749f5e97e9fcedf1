"""search/progress.html: how far a search is, rewritten when a round begins.

It is written from the study alone, before the trials of its last round have run: nothing of a test set is known to it.
Nothing rewrites it when they have: the page of the last round stays as it is, and looks again for ever. It links to the
report, which is there once all is ranked.
"""

import statistics
from html import escape

from tlimb.config import Sweep
from tlimb.files import write_text
from tlimb.watch.names import point_names

REPORT = "../ranking/report.html"
REFRESH = 30
"""Seconds after which a browser looks again."""
SHOWN = 20
WIDTH, HEIGHT, EDGE = 640, 260, 44
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --ground: #fff; --mark: #0b6bcb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9198a1; --line: #30363d; --ground: #0d1117; --mark: #58a6ff; }
}
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 46rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--ground); }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p.soft, caption { color: var(--soft); } .wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .25rem; }
th, td { text-align: left; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } td.n, th.n { text-align: right; }
@media (max-width: 30rem) { th, td { padding-right: .4rem; font-size: .9rem; } }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 12px; }
.axis { stroke: var(--line); } .point { fill: var(--soft); opacity: .6; }
.best { stroke: var(--mark); stroke-width: 2; fill: none; }
"""


def write_progress(path, study: dict, trials: list[dict], sweep: Sweep) -> None:
    """Write the page of a study. trials: the lines of trials.jsonl of its last round."""
    write_text(path, progress_page(study, trials, sweep))


def progress_page(study: dict, trials: list[dict], sweep: Sweep) -> str:
    """The page as HTML, without anything from elsewhere. study: as study.json; trials: of its last round."""
    rounds, scored = study["rounds"], _scored(study)
    over = study["finished"] and not trials
    refresh = "" if over else f'<meta http-equiv="refresh" content="{REFRESH}">'
    parts = [_headline(study, scored), _now(study, trials), _rounds(study)]
    parts += [_curve(study, scored), _table(study, scored)]
    ended = len(rounds) - (not rounds[-1]["points"])
    title = f"Search ended after {ended} rounds" if over else f"Search in progress, round {len(rounds)}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{refresh}\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{title}</h1>\n<p class="soft">{escape(study["method"])} search, results in {escape(sweep.outdir)}; '
        "all scores are of the validation part. "
        f'What came out: <a href="{REPORT}">the report</a>, once it is there.</p>\n'
        + "\n".join(filter(None, parts))
        + "\n</main>\n</body>\n</html>\n"
    )


def _scored(study: dict) -> list[dict]:
    """What has a value so far, in the order in which it was asked, with its name, and the epochs spent until then."""
    names = point_names([asked["point"] for each in study["rounds"] for asked in each["points"]])
    found, spent, reached = [], 0, {}
    for number, each in enumerate(study["rounds"], start=1):
        for asked in each["points"]:
            name, budget = names.pop(0), asked["budget"]
            if each["told"] and asked["why"] != "carried":
                spent += (budget - reached.get(asked["candidate"], 0)) * len(asked["trials"])
                reached[asked["candidate"]] = budget
            if asked["value"] is not None and each["told"]:
                found.append(asked | {"name": name, "round": number, "spent": spent})
    return found


def _order(study: dict):
    """Key of what was scored: where training pauses those trained longest first, then best first, then by id."""
    sign, pauses = -1 if study["direction"] == "max" else 1, "halving" in study["method"]
    return lambda asked: (-asked["budget"] * pauses, asked["failed"] > 0, sign * asked["value"], asked["candidate"])


def _metric(study: dict) -> str:
    return escape(study["metric"].replace("_", " "))


def _headline(study: dict, scored: list[dict]) -> str:
    if not scored:
        return "<p>Nothing is scored yet: values come with the next round.</p>"
    best = min(scored, key=_order(study))
    known = [value for value in best["values"] if value is not None]
    spread = f", standard deviation {statistics.stdev(known):.3f}" if len(known) > 1 else ""
    trials = f"mean of {len(known)} trials{spread}" if len(known) > 1 else "one trial"
    after = f"after {best['budget']} of {study['epochs']} epochs" if best["why"] != "carried" else "trained to its end"
    return (
        f"<p>Best so far: <strong>{escape(best['name'])}</strong>, {_metric(study)} {best['value']:.3f} "
        f"({trials}) {after}.</p>"
    )


def _now(study: dict, trials: list[dict]) -> str:
    if not trials and not study["finished"]:
        return f"<p>Round {len(study['rounds'])} has nothing to train: its candidates have trained fully before.</p>"
    if not trials:
        return f"<p>The search has ended: {escape(study['reason'] or 'nothing is left to try')}.</p>"
    epochs = sum(trial["budget"] - (trial.get("continues") or 0) for trial in trials)
    last = "It is the last round; the ranking follows." if study["finished"] else "More rounds may follow."
    many = f"{len(trials)} trial{'s' if len(trials) > 1 else ''}"
    return f"<p>Round {len(study['rounds'])} trains {many} for {epochs} epochs. {last}</p>"


def _rounds(study: dict) -> str:
    key, rows = _order(study), []
    for number, each in enumerate(study["rounds"], start=1):
        points, values = each["points"], [asked for asked in each["points"] if asked["value"] is not None]
        budgets = sorted({asked["budget"] for asked in points})
        best = f"{min(values, key=key)['value']:.3f}" if values else "not known yet"
        failed = sum(asked["failed"] for asked in points)
        trials = sum(len(asked["trials"]) for asked in points if asked["why"] != "carried")
        rows.append([number, len(points), trials, failed, " and ".join(map(str, budgets)), best])
    heads = ["round", "candidates", "trials", "failed", "epochs", "best"]
    return "<h2>Rounds</h2>\n" + _html_table(heads, rows, f"What each round asked for, and its best {study['metric']}")


def _table(study: dict, scored: list[dict]) -> str:
    if not scored:
        return ""
    latest = {asked["candidate"]: asked for asked in scored}
    best = sorted(latest.values(), key=_order(study))
    rows = [[asked["name"], asked["budget"], len(asked["trials"]), f"{asked['value']:.3f}"] for asked in best[:SHOWN]]
    caption = f"The first {SHOWN} of {len(best)}" if len(best) > SHOWN else "All that were scored"
    heads, order = ["candidate", "epochs", "trials", _metric(study)], "best first"
    order = f"trained longest first, then {order}" if "halving" in study["method"] else order
    return "<h2>Candidates</h2>\n" + _html_table(heads, rows, f"{caption}, {order}")


def _html_table(heads: list[str], rows: list[list], caption: str) -> str:
    def row(cells, tag: str) -> str:
        texts = (f'<{tag}{" class=n" if i else ""}>{escape(str(cell))}</{tag}>' for i, cell in enumerate(cells))
        return f"<tr>{''.join(texts)}</tr>"

    body = "\n".join(row(cells, "td") for cells in rows)
    return f'<div class="wide"><table><caption>{escape(caption)}</caption>\n{row(heads, "th")}\n{body}\n</table></div>'


def _curve(study: dict, scored: list[dict]) -> str:
    """Every value, and the best one until then, against the epochs spent."""
    if len(scored) < 2:
        return ""
    values = [asked["value"] for asked in scored]
    low, high = min(values), max(values)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    most, pick = scored[-1]["spent"], max if study["direction"] == "max" else min
    across = [EDGE + (WIDTH - EDGE - 8) * asked["spent"] / most for asked in scored]
    up = [HEIGHT - EDGE - (HEIGHT - EDGE - 12) * (value - low) / (high - low) for value in values]
    dots = "".join(
        f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(asked["name"])}: {asked["value"]:.3f}'
        "</title></circle>"
        for asked, x, y in zip(scored, across, up)
    )
    path, best = "", None
    for value, x, y in zip(values, across, up):
        if best is None or pick(value, best) != best:
            path += f"M{x:.1f} {y:.1f}" if best is None else f"H{x:.1f}V{y:.1f}"
            best = value
    bottom = HEIGHT - EDGE
    mixed = ", after few epochs or many" if len({asked["budget"] for asked in scored}) > 1 else ""
    return (
        f'<h2>So far</h2>\n<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_metric(study)} of each '
        f'candidate against the epochs trained until then; the best is {best:.3f} after {most} epochs">'
        f'<path class="axis" d="M{EDGE} 8V{bottom}H{WIDTH - 8}" fill="none"/>{dots}'
        f'<path class="best" d="{path}H{across[-1]:.1f}"/>'
        f'<text x="{EDGE - 6}" y="16" text-anchor="end">{high:.2f}</text>'
        f'<text x="{EDGE - 6}" y="{bottom}" text-anchor="end">{low:.2f}</text>'
        f'<text x="{EDGE}" y="{HEIGHT - 24}">0</text>'
        f'<text x="{WIDTH - 8}" y="{HEIGHT - 24}" text-anchor="end">{most} epochs of the last stage</text>'
        f'<text x="{EDGE}" y="{HEIGHT - 6}">dots: candidates; line: the best {_metric(study)} so far{mixed}</text>'
        "</svg>"
    )
