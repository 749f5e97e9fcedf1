"""`tlimb watch`: how far a run is, in the terminal."""

import sys
import time
from datetime import datetime
from pathlib import Path

import click

from tlimb.command import told_plainly
from tlimb.durations import duration_text
from tlimb.errors import InputError, Problem
from tlimb.watch.signs import Signs
from tlimb.watch.standing import Count, Standing, Watcher

WIDTH = 24
SHOWN = 5
"""Failures that are listed of many."""
HOME, REST = "\x1b[H", "\x1b[J"


@click.command("watch")
@click.argument("results", type=click.Path(path_type=Path), default="results")
@click.option("--once", is_flag=True, help="Print once and end; so does output that is no terminal.")
@click.option("--every", type=click.FloatRange(min=0.5), default=5.0, show_default=True, help="Seconds between looks.")
@told_plainly
def watch_command(results: Path, once: bool, every: float):
    """Show how far the run that writes to RESULTS (its outdir, by default `results`) is, until it has ended.

    It looks at files that finished tasks have left there, at validation scores only, and changes nothing.
    """
    if not results.is_dir():
        raise InputError([Problem(str(results), "no such folder; expected the outdir of a run")])
    watcher, ever, went_on = Watcher(results), not once and _is_terminal(), False
    if ever:
        click.clear()
    while True:
        standing, now = watcher.look(), datetime.now()
        signs = watcher.signs(now.timestamp())
        text = describe(standing, signs, results, now)
        click.echo(HOME + text.replace("\n", "\x1b[K\n") + "\x1b[K" + REST if ever else text)
        if not ever or (standing is not None and standing.over) or (signs.ended and went_on):
            return
        went_on = went_on or not signs.ended
        time.sleep(every)


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def describe(standing: Standing | None, signs: Signs, results: Path, now: datetime) -> str:
    """A standing in some lines of text."""
    head = f"{results}, {now:%H:%M:%S}"
    if standing is None:
        before = "" if signs.stopped else ": cohorts are checked and scans are prepared first"
        return "\n".join(filter(None, [head, f"no search has begun{before}", signs.told]))
    told = [
        ("rounds", f"{standing.rounds}" + (", another may follow" if standing.more else "")),
        ("pretrainings", _bar(standing.pretrainings)),
        ("trials", _bar(standing.trials)),
    ]
    told += [("stubs", "nothing is trained or scored in this run")] if standing.stub else _trained(standing, signs)
    lines = [head, "", *(f"{name:<14}{text}" for name, text in told)]
    lines += ["", signs.told] if signs.told and not standing.over else []
    lines += ["", *_failures(standing)] if standing.failures else []
    return "\n".join(lines)


def _trained(standing: Standing, signs: Signs) -> list[tuple[str, str]]:
    return [
        ("epochs", f"{standing.epochs.done} of {standing.epochs.total} of the last stage"),
        ("best so far", _best(standing)),
        ("time left", _left(standing, signs)),
    ]


def _bar(count: Count) -> str:
    if not count.total:
        return "none"
    full = WIDTH * count.done // count.total
    failed = f", {count.failed} failed" if count.failed else ""
    return f"{'█' * full}{'░' * (WIDTH - full)} {count.done} of {count.total}{failed}"


def _best(standing: Standing) -> str:
    best = standing.best
    if best is None:
        return "nothing is scored yet"
    part = f"mean of {best.trials} of {best.of} trials" if best.of > 1 else "one trial"
    value = f"{best.metric.replace('_', ' ')} {best.value:.3f} on validation ({part}, {best.epochs} epochs)"
    return f"{best.name}\n{'':<14}{value}"


def _left(standing: Standing, signs: Signs) -> str:
    if standing.over:
        return "none: ranking/report.html says what came out"
    if signs.stopped:
        return "none while nothing runs"
    done = standing.trials.done == standing.trials.total and standing.pretrainings.done == standing.pretrainings.total
    if done:
        return "trainings of this round are done; scores, the next round or the ranking follow"
    if standing.left is None:
        return "unknown until a training has ended"
    speed = f"{standing.at_once:.1f} trainings at a time"
    return f"about {duration_text(standing.left)} for what is known to be trained, at {speed}"


def _failures(standing: Standing) -> list[str]:
    shown = [f"failed: {name}: {reason}" for name, reason in standing.failures[:SHOWN]]
    more = len(standing.failures) - SHOWN
    return shown + ([f"and {more} more"] if more > 0 else [])
