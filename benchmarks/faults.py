"""The fault bench: injects each fault for real, diagnoses this host, and says what was found.

    python -m benchmarks.faults [--only ID,...] [--runs 3] [--window 10] [--out FILE.jsonl]

Every figure of the README about faults found, false alarms, calibration and seconds is printed here. Injected faults
are bounded and undone, also when the bench is killed. It cannot know what else is wrong with the host it runs on: run
it on an otherwise quiet one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from benchmarks.faults_scoring import Outcome, confusion, failed, score, totals
from tests.faults.scenario import Injected, Scenario, scenarios
from tests.faults.stage import LeftBehindError, NotBitingError

ROOT = Path(__file__).resolve().parent.parent
GRACE_S = 60.0
"""A diagnosis that takes this much longer than its window is given up."""
SETTLE_S = 3.0
"""Pause between runs, so that averages of the last fault have left the ten-second figures of the kernel."""


def diagnose(window: float) -> dict[str, Any]:
    """Run the command as an operator would; its document. Raises ValueError with its complaint when there is none."""
    command = [sys.executable, "-m", "cli.main", "-o", "json", "--window", f"{window:g}"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=window + GRACE_S, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"no answer within {window + GRACE_S:g} s") from None
    try:
        document: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        complaint = done.stderr.strip().splitlines()[-1:] or ["nothing on stderr"]
        raise ValueError(f"exit {done.returncode}, no JSON: {complaint[0]}") from None
    return document


def judge(scenario: Scenario, injected: Injected, window: float) -> tuple[Outcome, dict[str, Any]]:
    """Diagnose while the fault is in force and judge the answer before it is undone."""
    start = time.monotonic()
    try:
        document = diagnose(window)
    except ValueError as error:
        took = time.monotonic() - start
        return failed(scenario.id, injected.truths, str(error), seconds=took, window=window), {}
    took = time.monotonic() - start
    held = injected.held()
    try:
        outcome = score(scenario.id, injected.truths, document, seconds=took, window=window, held=held)
    except (KeyError, TypeError, AttributeError) as error:
        why = f"not a diagnosis document: {error!r}"
        return failed(scenario.id, injected.truths, why, seconds=took, window=window), document
    return outcome, document


def run(
    chosen: Sequence[Scenario], options: argparse.Namespace, console: Console, out: TextIO | None
) -> tuple[list[Outcome], list[str]]:
    """Inject, diagnose and judge each scenario as often as asked; print a line a run.

    Returns the runs that count and, in words, those that do not.
    """
    outcomes: list[Outcome] = []
    uncounted: list[str] = []

    def leave_out(why: str) -> None:
        uncounted.append(why)
        console.print(why, highlight=False)

    for scenario in chosen:
        if reason := scenario.probe():
            leave_out(f"{scenario.id:34} skipped: {reason}")
            continue
        for number in range(options.runs if scenario.faults else options.healthy_runs):
            time.sleep(SETTLE_S)
            try:
                with scenario.inject() as injected:
                    outcome, document = judge(scenario, injected, options.window)
            except (NotBitingError, LeftBehindError) as error:
                leave_out(f"{scenario.id:34} no run: {error}")
                continue
            if not outcome.held:
                leave_out(f"{scenario.id:34} no run: the fault did not last until the end of the diagnosis")
            else:
                outcomes.append(outcome)
                console.print(line(outcome), highlight=False)
            if out:
                print(json.dumps({"run": number, "outcome": outcome.record(), "document": document}), file=out)
                out.flush()
    return outcomes, uncounted


def line(o: Outcome) -> str:
    """One run in one line."""
    named = ", ".join(o.named[:3]) or "nothing"
    verdict = "right" if o.right else "WRONG"
    marks = "".join(mark if on else "-" for mark, on in (("1", o.top1), ("3", o.top3), ("c", o.culprit)))
    marks = marks if o.faults else ("ALARM" if o.false_alarm else "quiet")
    tail = o.error or f"{o.status}: {named}"
    return f"{o.scenario:34} {verdict} {marks:5} p={o.probability:.2f} {o.seconds:5.1f} s  {tail}"


def table(outcomes: Sequence[Outcome]) -> Table:
    """One row a scenario over its runs."""
    grid = Table("scenario", "runs", "top 1", "top 3", "culprit", "p (least, most)", "s after window (most)")
    for name in dict.fromkeys(o.scenario for o in outcomes):
        runs = [o for o in outcomes if o.scenario == name]
        p = [o.probability for o in runs]
        if runs[0].faults:
            flags = [f"{sum(getattr(o, flag) for o in runs)}/{len(runs)}" for flag in ("top1", "top3", "culprit")]
            spread = f"{min(p):.2f}, {max(p):.2f}"
        else:
            flags = [f"{sum(not o.false_alarm for o in runs)}/{len(runs)} quiet", "", ""]
            spread = ""
        grid.add_row(name, str(len(runs)), *flags, spread, f"{max(o.after_window_s for o in runs):.1f}")
    return grid


def report(outcomes: Sequence[Outcome], uncounted: Sequence[str], console: Console) -> None:
    """The table, the failures, the confusion matrix and the totals."""
    console.print(table(outcomes))
    for title, lines in (("wrong runs", [line(o) for o in outcomes if not o.right]), ("not counted", uncounted)):
        console.print(f"\n{title}: {len(lines)}")
        for text in lines:
            console.print(f"  {text}", highlight=False)
    console.print("\nconfusion (injected -> first answer, times):")
    for (injected, answered), count in sorted(confusion(outcomes).items()):
        mark = "" if injected == answered else "  <--"
        console.print(f"  {injected:22} -> {answered:22} {count}{mark}", highlight=False)
    t = totals(outcomes)

    def percent(share: float | None) -> str:
        return "-" if share is None else f"{100 * share:.1f} %"

    rows = (
        ("fault runs", str(t.fault_runs)),
        ("top-1 fault and right culprit", percent(t.right)),
        ("fault named top 1", percent(t.top1)),
        ("fault named top 3", percent(t.top3)),
        ("right culprit", percent(t.culprit)),
        ("fault runs that believe another fault too", percent(t.extra)),
        ("false alarms on a healthy host", f"{t.false_alarms} of {t.healthy_runs} runs"),
        ("Brier score, all / top hypotheses", f"{t.brier_all:.3f} / {t.brier_top:.3f}"),
        ("calibration error, all / top", f"{t.ece_all:.3f} / {t.ece_top:.3f}"),
        ("seconds after the window, median / most", f"{t.after_window_median_s:.1f} / {t.after_window_max_s:.1f}"),
        ("seconds in all, most", f"{t.seconds_max:.1f}"),
        ("scenarios whose runs differ", str(t.spread)),
    )
    console.print()
    for name, value in rows:
        console.print(f"{name:42} {value}", highlight=False)


def select(only: str | None) -> list[Scenario]:
    """The scenarios whose id is, or begins with, one of the comma-separated names. Raises ValueError for no match."""
    known = scenarios()
    if not only:
        return list(known.values())
    chosen = []
    for name in only.split(","):
        found = [s for s in known.values() if s.id == name or s.id.startswith((f"{name}/", f"{name}."))]
        if not found:
            raise ValueError(f"no scenario is called {name}; --list shows them")
        chosen += [s for s in found if s not in chosen]
    return chosen


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description="inject faults and diagnose them")
    parser.add_argument("--only", help="scenario ids, fault ids or families, comma-separated")
    parser.add_argument("--runs", type=int, default=3, help="runs of each fault scenario")
    parser.add_argument("--healthy-runs", type=int, default=4, help="runs of each healthy scenario")
    parser.add_argument("--window", type=float, default=10.0, help="seconds that the diagnosis observes")
    parser.add_argument("--out", type=Path, help="write each run with its document as a line of JSON")
    parser.add_argument("--list", action="store_true", help="list the scenarios and whether they can run here")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every run was right, 1 when not, 2 for wrong usage."""
    options = parse(arguments)
    console = Console(soft_wrap=True)
    try:
        chosen = select(options.only)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if options.list:
        for scenario in chosen:
            console.print(f"{scenario.id:34} {scenario.probe() or 'can run'}: {scenario.about}", highlight=False)
        return 0
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(options.out.open("w")) if options.out else None
        outcomes, uncounted = run(chosen, options, console, out)
    if not outcomes:
        print("nothing could be run here", file=sys.stderr)
        return 1
    report(outcomes, uncounted, console)
    return 0 if all(o.right for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
