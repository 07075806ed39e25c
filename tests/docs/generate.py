"""Writes docs/faults.md and docs/metrics.md from the declarations: ``python -m tests.docs.generate``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rca.faults import all_models
from rca.vmcore.classify import PLAYBOOKS
from wardround.models.metrics import METRICS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def faults() -> str:
    """Return the page of fault models: what is asked of whom, what follows, what treats it."""
    out = [
        "# Faults",
        "",
        (
            "What Wardround can name on one host, and how it judges. "
            "A question marked **needed** must be answered in favour"
        ),
        "before the fault is called confirmed. Symptoms are listed under their cause. Generated from `rca/faults/`.",
        "",
    ]
    for model in all_models():
        out += [f"## `{model.fault}`", "", f"Culprit: {model.culprit}. Chain: {' → '.join(model.chain)}.", ""]
        out += ["| question | asked of | speaks for up to | against up to |", "|---|---|---|---|"]
        for f in model.features:
            needed = " **needed**" if f.needed else ""
            out.append(f"| `{f.name}`{needed} | {f.tool} | {f.curve.support:+.1f} | {f.curve.against:+.1f} |")
        brings = ", ".join(f"`{s}`" for s in model.symptoms) or "nothing listed"
        out += ["", f"Brings about: {brings}. Treatment: {', '.join(f'`{a}`' for a in model.actions)}.", ""]
    out += [*_crashes(), ""]
    out.append("Figures are natural logarithms of likelihood ratios.")
    return "\n".join(out) + "\n"


def _crashes() -> Iterator[str]:
    yield "# Faults of a kernel that crashed"
    yield ""
    yield "What [`diagnose vmcore`](vmcore.md) asks of a dump or a log. Generated from `rca/vmcore/`."
    for playbook in PLAYBOOKS:
        yield from ("", f"## `{playbook.fault}`, from a crash", "", f"Culprit: {playbook.culprit}.", "")
        yield from ("| question | speaks for up to | against up to |", "|---|---|---|")
        for clue in playbook.clues:
            needed = " **needed**" if clue.needed else ""
            yield f"| `{clue.name}`{needed} | {clue.curve.support:+.1f} | {clue.curve.against:+.1f} |"
        brings = ", ".join(f"`{s}`" for s in playbook.symptoms) or "nothing listed"
        yield from ("", f"Brings about: {brings}. Treatment: {', '.join(f'`{a}`' for a in playbook.actions)}.")


def metrics() -> str:
    """Return the page of declared metrics."""
    out = [
        "# Metrics",
        "",
        "Every series that the collectors emit. Counters are cumulative and raw; rates are taken over windows.",
        "Generated from `wardround/models/metrics.py`.",
        "",
        "| name | unit | kind | labels | what |",
        "|---|---|---|---|---|",
    ]
    out += [f"| `{m.name}` | {m.unit} | {m.kind} | {' '.join(m.labels)} | {m.about} |" for m in METRICS.values()]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    (DOCS / "faults.md").write_text(faults())
    (DOCS / "metrics.md").write_text(metrics())
