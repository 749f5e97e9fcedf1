"""The ranking's command and its page, read as text and in a real browser."""

import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from contracts import check_json
from explained_tree import write_full_tree
from PIL import Image
from results_tree import rewrite_json, write_results_tree

from tlimb.files import read_json
from tlimb.ranking.plots import write_figures
from tlimb.ranking.quality import read_sites, to_look_at
from tlimb.ranking.rank import rank
from tlimb.ranking.report import duration, many, number, p_value, render, signed
from tlimb.ranking.results import read_results
from tlimb.ranking.sections.search import settings

HOUSE = Path(__file__).parents[2]
TEMPLATE = HOUSE / "assets" / "report"
COMMAND = "nextflow run . -profile demo --params-file sweep.json"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page is not opened in a browser")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_full_tree(tmp_path_factory.mktemp("tree"), write_results_tree, persons=60)


@pytest.fixture(scope="module")
def out(tree, tmp_path_factory):
    """The folder that the command writes, run as the pipeline runs it."""
    folder = tmp_path_factory.mktemp("ranking")
    done = run_command(tree, folder, "-X", "importtime")
    assert done.returncode == 0, done.stderr
    (folder / "imported.txt").write_text(done.stderr)
    return folder


def run_command(tree, out, *python):
    (out.parent / "command.txt").write_text(COMMAND + "\n")
    names = {"cohort": "cohort-json", "table": "cohort-table"}
    paths = [text for name, path in tree.items() for text in (f"--{names.get(name, name)}", str(path))]
    more = ["--template", str(TEMPLATE), "--command", str(out.parent / "command.txt"), "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(HOUSE / "python")}
    script = [sys.executable, *python, str(HOUSE / "bin" / "tlimb_rank.py")]
    return subprocess.run([*script, *paths, *more], env=environment, capture_output=True, text=True, timeout=120)


def page_of(tree, **more):
    results = read_results(**tree)
    return render(results, rank(results), template=TEMPLATE, command=COMMAND, **more)


def write_montages(folder: Path, scans) -> Path:
    """A montage for each of some scans of the recipe `default`, a grey square each, in two shards."""
    for shard, part in (("0", scans[::2]), ("1", scans[1::2])):
        written = io.BytesIO()
        Image.fromarray(np.full((8, 8), 100, np.uint8)).save(written, "PNG")
        table = pa.table({"scan_id": list(part), "image": [written.getvalue()] * len(part)})
        (folder / "default").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / "default" / f"shard-{shard}.montage.parquet")
    return folder


def browse(page: Path, folder: Path, *options):
    """What chromium makes of a page without any network: the final DOM and what it logged."""
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run".split()
    flags += ["--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND"]
    flags += [f"--user-data-dir={folder / 'profile'}", *options]
    done = subprocess.run([CHROMIUM, *flags, page.as_uri()], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_command_writes_table_document_and_page(out):
    table, document = pd.read_csv(out / "ranking.csv"), read_json(out / "ranking.json")
    assert list(table["candidate"]) == [row["candidate"] for row in document["candidates"]]
    assert table["parameters"].dtype == "int64" and table.loc[0, "selected"] == "best"
    assert document["best"] == table.loc[0, "candidate"] and document["answer"].startswith("Best for diagnosis is")
    assert document["answer"] in unescaped(out / "report.html")


def unescaped(path):
    return path.read_text().replace("&#39;", "'").replace("&#34;", '"').replace("&amp;", "&")


def test_the_command_imports_nothing_that_trains(out):
    lines = (out / "imported.txt").read_text().splitlines()
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in lines}
    assert "pandas" in imported
    assert not imported & {"torch", "lightning", "monai", "SimpleITK", "nibabel", "plotly"}


def test_the_command_writes_figures_for_print_and_tables(out):
    figures = {path.name for path in (out / "figures").iterdir()}
    names = ("ranking", "comparisons", "cost", "groups", "calibration", "progress", "settings", "features")
    assert figures >= {f"{name}.{ending}" for name in names for ending in ("svg", "pdf")}
    for path in (out / "figures").glob("*.svg"):
        drawn = ElementTree.parse(path).getroot()
        assert drawn.tag.endswith("svg") and len(list(drawn.iter("{http://www.w3.org/2000/svg}path"))) > 3
    assert all(path.read_bytes().startswith(b"%PDF") for path in (out / "figures").glob("*.pdf"))
    tables = {path.stem: pd.read_csv(path) for path in (out / "tables").iterdir()}
    assert set(tables) >= {"settings", "comparisons", "groups", "calibration", "conformal", "ensembles"}
    document = read_json(out / "ranking.json")
    assert tables["comparisons"]["difference"].tolist() == [one["difference"] for one in document["comparisons"]]
    assert set(tables["groups"]["column"]) == {"site", "sex", "age"}
    (row,) = document["harmonised"]
    assert row["candidate"] == document["best"] and row["test"]["difference"]["auroc"] is None
    check_json("ranking", document)
    assert tables["harmonised"]["metric"].tolist() == ["balanced_accuracy", "auroc"]
    assert tables["harmonised"][["difference_value", "n_persons"]].iloc[0].tolist() == [-0.0421, 38]
    best = tables["settings"].query("setting == 'strategy'").set_index("value")["validation_mean"]
    assert best.idxmax() == "full" and list(best.index) == ["frozen", "full", "scratch"]


def test_figures_for_print_are_the_same_bytes_for_the_same_numbers(out, tmp_path):
    document = read_json(out / "ranking.json")
    names = write_figures({key: document[key] for key in ("metric", "candidates", "comparisons", "best")}, tmp_path)
    assert names == ["ranking", "comparisons", "cost"]
    for name in names:
        for ending in ("svg", "pdf"):
            assert (tmp_path / f"{name}.{ending}").read_bytes() == (out / "figures" / f"{name}.{ending}").read_bytes()


def test_figures_of_the_search_and_of_features_say_what_they_show(tree, out, tmp_path):
    document, results = read_json(out / "ranking.json"), read_results(**tree)
    assert {"progress", "settings", "features"} <= set(write_figures(document, tmp_path, results))
    texts = {}
    for name in ("progress", "settings", "features"):
        for path in (f"{name}.svg", f"{name}.pdf"):
            assert (tmp_path / path).read_bytes() == (out / "figures" / path).read_bytes()
        drawn = list(ElementTree.parse(tmp_path / f"{name}.svg").getroot().iter())
        texts[name] = {one.text for one in drawn if one.tag.endswith("}text")}
        texts[name, "marks"] = sum(one.tag.endswith("}use") for one in drawn)
    assert {"best so far, fully trained", "5 epochs", "20 epochs"} <= texts["progress"]
    assert {"strategy", "lr", "L2SP", "0.001 (4)"} <= texts["settings"]
    assert {"PCA", "t-SNE", "UMAP", "diagnosis", "site", "age", "control", "patient", "east"} <= texts["features"]
    assert 0 <= texts["features", "marks"] - 3 * 3 * 120 < 30
    page = (out / "report.html").read_text()
    assert "<code>figures/features.svg</code>" in page and "/features.parquet</code>" not in page


def test_importances_are_drawn_where_the_forest_foretells_anything(tmp_path):
    rates = (0.0001, 0.001, 0.01, 0.1)
    results = read_results(**write_results_tree(tmp_path / "tree", seeds=1, persons=60, rates=rates))
    document = rank(results).document()
    found = settings(results, document["candidates"])["importances"]
    assert found["explained"] > 0 and "importances" in write_figures(document, tmp_path / "figures", results)
    drawn = ElementTree.parse(tmp_path / "figures" / "importances.svg").getroot()
    texts = [one.text for one in drawn.iter() if one.tag.endswith("}text")]
    assert [text for text in texts if text in ("L2SP", "strategy", "lr")] == [row["name"] for row in found["settings"]]
    said = f"explains {100 * found['explained']:.0f}% of {found['candidates']} candidates"
    assert any(said in text for text in texts)
    assert not (tmp_path / "figures" / "progress.svg").exists()  # there is no study


def test_a_worst_group_is_red_only_where_it_differs_from_everybody_else(tree):
    results = read_results(**tree)
    ranking = rank(results)
    for one in ranking.groups:
        one["worst"] |= {"low": -0.3, "high": 0.1}
    shown = {"template": TEMPLATE, "command": COMMAND}
    assert 'class="worst"' not in render(results, ranking, **shown)
    best = [one for one in ranking.groups if one["candidate"] == ranking.best]
    best[0]["worst"] |= {"low": -0.3, "high": -0.1}
    best[1]["worst"] |= {"low": None, "high": None}
    marked = re.findall(r'<li class="worst"><span class="name">([^<]*)<', render(results, ranking, **shown))
    assert marked == [best[0]["worst"]["group"]]


def test_bad_input_is_said_without_a_traceback(tree, tmp_path):
    (tmp_path / "broken.json").write_text("{")
    done = run_command(tree | {"cohort": tmp_path / "broken.json"}, tmp_path / "out")
    assert done.returncode == 1 and "broken.json, line 1, column 2" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


def test_the_page_is_the_same_for_the_same_results(tree, out):
    assert page_of(tree, sites=read_sites(tree["table"])) == (out / "report.html").read_text()


def test_the_page_asks_nothing_of_the_network(out):
    page = (out / "report.html").read_text()
    assert "default-src 'none'" in page
    own = re.sub(r'<script type="text/plain" id="plotly">[^<]*</script>|base64,[^"]*', "", page)
    assert not re.findall(r"(?:https?:)?//[a-z]", own.split('<section id="origin">')[0])
    assert not re.findall(r"<(?:link|script|img|iframe)[^>]*(?:src|href)=\"(?!data:)", page)


def test_the_page_holds_every_part(out, tree):
    page = unescaped(out / "report.html")
    headings = (
        "Ranking", "Comparisons on test", "For whom, and how surely", "Known before training", "How the search went",
        "What each setting did", "What it cost", "What the selected networks look at", "Training", "Data", "Failures",
        "How it was made",
    )  # fmt: skip
    for heading in headings:
        assert f"<h2>{heading}" in page
    ranking = rank(read_results(**tree))
    for row in ranking.candidates:
        assert row["name"] in page
    for text in ("training diverged: loss became NaN in epoch 4", "all voxels are equal", COMMAND, "tlimb 0.1.0"):
        assert text in page
    assert '"bootstrap": 200' in page and "clinic/sub-007/1/T1w" in page
    finished = [one for row in ranking.selected() for one in row["trials"] if one["status"] == "ok"]
    assert page.count("<polyline") >= 2 * len(finished)


def test_tables_have_captions_and_figures_have_words(out):
    page = (out / "report.html").read_text()
    assert page.count("<table") == page.count("<caption")
    assert not re.findall(r'<svg role="img"(?! aria-label="[^"]{10,})', page)


def test_scans_to_look_at_are_shown_worst_first_with_pictures_and_reasons(tree, out, tmp_path):
    shown = to_look_at(read_results(**tree).scans)
    pictured = [row["scan_id"] for row in shown]
    folder = write_montages(tmp_path / "montages", pictured)
    page = page_of(tree, montages=folder)
    part = page[page.index('<h3 id="look">') :]
    captions = re.findall(r"<figcaption><b>([^<]*)</b>", part)
    assert captions == pictured[:12] and part.count("data:image/png;base64,") == len(captions) > 2
    assert captions[0].endswith("sub-007/1/T1w") and "little overlap with the template (0.71)" in page
    deviations = f"{shown[0]['outliers'][0]['deviations']:.1f} deviations"
    assert "mask overlap 0.71" in page and deviations in page
    bare = (out / "report.html").read_text()
    assert "data:image/png" not in bare[bare.index('<h3 id="look">') :] and all(scan in bare for scan in pictured)


def test_the_command_takes_montages_and_sites(tmp_path):
    tree = write_results_tree(tmp_path / "tree", seeds=1, persons=24)
    scans = read_results(**tree).scans["scan_id"]
    folder = write_montages(tmp_path / "montages", scans[:20].tolist())
    sites = pd.DataFrame({"scan_id": scans, "site": ["east", "west"] * (len(scans) // 2)})
    sites.to_parquet(tmp_path / "cohort.parquet")
    done = run_command(tree | {"montages": folder, "table": tmp_path / "cohort.parquet"}, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert done.returncode == 0 and "data:image/png" in page[page.index('<h3 id="look">') :] and "<td>west</td>" in page


def test_the_page_shows_what_each_outer_fold_chose(tmp_path):
    split = {"scheme": "nested", "folds": 3, "inner_folds": 2}
    tree = write_results_tree(tmp_path / "tree", seeds=1, persons=24, failing=False, split=split)
    results = read_results(**tree)
    ranking = rank(results)
    nested, page = ranking.nested, render(results, ranking, template=TEMPLATE, command=COMMAND)
    part = page[page.index("Nested estimate: selection repeated inside of each outer fold") :]
    rows = re.findall(r"<tr><td>(\d)</td><td>([^<]*)</td><td class=\"num\">([^<]*)</td></tr>", part)
    assert [(int(fold), name) for fold, name, _ in rows] == [(row["fold"], row["name"]) for row in nested["folds"]]
    assert [float(test.replace("−", "-")) for *_, test in rows] == [
        pytest.approx(row["test"], abs=0.006) for row in nested["folds"]
    ]
    assert f"<b>{number(nested['value'], 2)}</b>" in part and "inner fold 1" in page
    tile = re.search(r"<dt>([^<]*)</dt><dd>([^<]*)<small>", page)
    assert tile.groups() == ("Nested estimate: balanced accuracy", number(nested["value"], 2))
    below = re.search(r'id="answer">([^<]*)</p>\s*<p id="cautions">([^<]*)</p>', page)
    assert [html.unescape(text) for text in below.groups()] == [ranking.answer, " ".join(ranking.cautions)]


def test_text_of_the_user_is_never_markup(tmp_path):
    tree = write_results_tree(tmp_path / "tree", seeds=1, persons=24)
    attack = "<script>alert(1)</script>"
    cohort = read_json(tree["cohort"])
    rewrite_json(tree["cohort"], cohorts={attack: {"scans": 1, "persons": 1}}, warnings=[attack])
    rewrite_json(tree["sweep"], input=attack, evaluate=read_json(tree["sweep"])["evaluate"], labels={attack: "x"})
    for path in tree["models"].glob("*/model.json"):
        if read_json(path)["status"] == "failed":
            rewrite_json(path, reason=attack)
    page = page_of(tree)
    assert cohort["scans"] and attack not in page and page.count("&lt;script&gt;alert(1)") >= 4
    assert page.count("<script>") == 1


@pytest.mark.parametrize("status", ["nothing finished", "no failure", "one candidate", "no test scores"])
def test_the_page_is_whole_in_every_state_of_a_search(tmp_path, status):
    tree = write_results_tree(tmp_path / "tree", seeds=1, persons=24, failing=status != "no failure")
    if status == "nothing finished":
        for path in tree["models"].glob("*/model.json"):
            rewrite_json(path, status="failed", reason="out of memory")
            path.with_name("history.csv").unlink(missing_ok=True)
    if status == "one candidate":
        lines = tree["search"] / "round-1" / "trials.jsonl"
        lines.write_text(next(line for line in lines.read_text().splitlines(True) if '"init":""' in line))
        (lines.with_name("pretrainings.jsonl")).write_text("")
    if status == "no test scores":
        for path in tree["scores"].glob("*/*-test.*"):
            path.unlink()
    page = page_of(tree)
    expected = {
        "nothing finished": "nothing can be ranked",
        "no failure": "None: every scan, pretraining and trial went through.",
        "one candidate": "There is no second strategy",
        "no test scores": "by validation alone: it has no test scores",
    }
    assert expected[status] in page and page.endswith("</html>")


def test_a_regression_target_is_ranked_by_its_error(tmp_path):
    tree = write_results_tree(tmp_path / "tree", seeds=2, persons=24, failing=False)
    cohort = read_json(tree["cohort"])
    cohort["labels"]["diagnosis"] = {"kind": "regression", "classes": [], "n": 48}
    rewrite_json(tree["cohort"], labels=cohort["labels"])
    for path in tree["scores"].glob("*/scores-*.json"):
        metrics = {"mae": {"value": 0.25, "low": 0.2, "high": 0.3}, "r": None}
        rewrite_json(path, targets={"diagnosis": {"kind": "regression", "classes": [], "metrics": metrics}})
    page = page_of(tree)
    assert "On test: mean absolute error" in page and "(lower is better)" in page
    errors = np.abs(pd.read_parquet(next(tree["scores"].glob("*/predictions-test.parquet")))["truth"] - 0.4)
    for path in tree["models"].glob("*/model.json"):
        rewrite_json(path, targets={"diagnosis": {"kind": "regression", "classes": [], "mean": 0.4, "sd": 1.0}})
    assert f"always saying the mean ({number(errors.mean(), 2)})" in page_of(tree)


def test_numbers_read_as_in_print():
    assert [number(-0.456), number(-0.001), number(None)] == ["−0.46", "0.00", "–"]
    assert [signed(0.1), signed(-0.1)] == ["+0.10", "−0.10"]
    assert [many(11_170_000), many(1026), many(12)] == ["11.2 million", "1.03 thousand", "12"]
    assert [p_value(p) for p in (0.5, 0.0123, 0.0004, None)] == ["0.50", "0.012", "< 0.001", "–"]
    assert [duration(41.4), duration(207.5), duration(7560), duration(None)] == ["41 s", "3.5 min", "2.1 h", "–"]


DO = """
<script>
(async () => {
  const seen = {}, every = (what, within = document) => [...within.querySelectorAll(what)];
  const table = document.querySelector("table.filtered");
  const shown = () => every("tbody tr", table).filter(row => !row.hidden);
  every("th button", table)[2].click();
  seen.sorted = shown().map(row => row.cells[2].dataset.value);
  seen.said = every("[aria-sort]", table).map(head => [head.textContent, head.ariaSort]);
  const find = document.querySelector("[data-filter=text]"), choose = document.querySelector("[data-filter=strategy]");
  const ask = (field, value) => { field.value = value; field.dispatchEvent(new Event("input", { bubbles: true })); };
  ask(find, "0.01 FULL");
  seen.found = shown().map(row => row.cells[1].firstChild.textContent.trim());
  ask(find, "");
  ask(choose, "frozen");
  seen.chosen = shown().map(row => row.querySelector("[data-of=strategy]").textContent);
  seen.counted = document.querySelector(".filters output").textContent;
  ask(choose, "");
  const mark = every("button.mark").find(one => one.textContent === "scratch");
  mark.click();
  seen.paths = [every(".path").length, every(".path.kept").length, mark.ariaPressed];
  const focus = every("a[href], button, input, select, summary, [tabindex]").filter(one => one.checkVisibility());
  const name = one => (one.ariaLabel ?? one.labels?.[0]?.textContent ?? one.textContent).trim();
  seen.focus = focus.map(one => [one.tagName, one.tabIndex, name(one)]);
  const start = performance.now();
  for (const place of every(".live")) {
    place.scrollIntoView({ behavior: "instant" });
    while (!("drawn" in place.dataset)) await new Promise(done => setTimeout(done, 20));
    seen.first ??= performance.now() - start;
  }
  const points = place => every(".scatterlayer .point", place).length;
  seen.drawn = every(".live").map(place => [every(".main-svg", place).length > 0, points(place)]);
  const layout = document.querySelector("[data-part=layout]"), column = document.querySelector("[data-part=column]");
  ask(layout, "UMAP");
  ask(column, "age");
  await new Promise(done => setTimeout(done, 300));
  seen.axis = document.querySelector(`[data-figure="${layout.form.dataset.for}"] .xtitle`).textContent;
  seen.bar = every(`[data-figure="${layout.form.dataset.for}"] .colorbar`).length;
  document.title = JSON.stringify(seen);
})();
</script>
"""


@pytest.fixture(scope="module")
def used(out, tmp_path_factory):
    """The page after somebody has sorted, filtered, chosen and scrolled: what was seen, and what the console said."""
    page = tmp_path_factory.mktemp("used") / "used.html"
    page.write_text((out / "report.html").read_text().replace("</body>", DO + "</body>"))
    dom, console = browse(page, page.parent, "--virtual-time-budget=60000", "--window-size=1200,900", "--dump-dom")
    return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dom, re.S).group(1))), console, dom


@browser
def test_a_browser_shows_the_answer_without_complaint(out, used):
    _, console, dom = used
    assert console == []
    shown = re.search(r'<p class="answer" id="answer">(.*?)</p>', dom).group(1)
    assert html.unescape(shown) == read_json(out / "ranking.json")["answer"]


@browser
def test_a_click_on_a_heading_sorts_the_table(used):
    values = [float(value) for value in used[0]["sorted"]]
    assert len(values) == 8 and values == sorted(values) and used[0]["said"] == [["Validation", "ascending"]]


@browser
def test_candidates_are_found_by_words_and_by_strategy(used):
    assert sorted(used[0]["found"]) == ["full, lr 0.01", "full, lr 0.01, L2SP"]
    assert used[0]["chosen"] == ["frozen", "frozen"] and used[0]["counted"] == "2 of 8 candidates"


@browser
def test_a_value_on_an_axis_of_the_settings_keeps_the_candidates_that_have_it(used):
    assert used[0]["paths"] == [8, 2, "true"]


@browser
def test_the_keyboard_meets_everything_in_the_order_of_the_page_and_with_a_name(used):
    focus = used[0]["focus"]
    assert focus[0] == ["A", 0, "Skip to the ranking"]
    assert all(order == 0 and name for _, order, name in focus)
    assert {"INPUT", "SELECT", "BUTTON", "SUMMARY"} <= {tag for tag, *_ in focus}


@browser
def test_figures_are_drawn_when_they_come_into_view_and_follow_what_is_chosen(used):
    seen = used[0]
    assert len(seen["drawn"]) == 2 and all(drawn and points >= 12 for drawn, points in seen["drawn"])
    assert seen["axis"] == "UMAP 1" and seen["bar"] == 1


def test_a_small_page_carries_no_script_that_it_does_not_need(tmp_path):
    tree = write_results_tree(tmp_path / "tree", seeds=1, persons=24, failing=False)
    page = page_of(tree)
    assert 'id="plotly"' not in page and len(page) < 200_000


@browser
@pytest.mark.parametrize(("scheme", "bright"), [("1", True), ("0", False)])
def test_the_page_is_light_or_dark_as_the_reader_likes(out, tmp_path, scheme, bright):
    options = [f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={tmp_path / 'page.png'}"]
    browse(out / "report.html", tmp_path, *options, "--window-size=800,600")
    levels = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert (np.median(levels) > 200) == bright and np.ptp(levels.astype(int)) > 150


@browser
@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_sticks_out_of_the_page_at_any_width(out, tmp_path, width):
    frame = tmp_path / "frame.html"
    report = (out / "report.html").as_uri()
    probe = "document.title = frames[0].document.documentElement.scrollWidth"
    frame.write_text(f'<iframe src="{report}" style="width:{width}px;height:900px;border:0" onload="{probe}"></iframe>')
    dom, _ = browse(frame, tmp_path, "--allow-file-access-from-files", "--window-size=1400,900", "--dump-dom")
    assert int(re.search(r"<title>(\d+)</title>", dom).group(1)) <= width
