"""Follow-up tool of the metric specialist: one metric over the window, in figures.

A planner may ask it for detail; its answers explain but move no probability.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from agents.tools.base import Arguments, Tool
from rca.case import Case
from wardround.models.diagnosis import Evidence
from wardround.models.metrics import METRICS
from wardround.models.series import FloatArray

# Where an operator sees a metric again, by the start of its name; the longest match counts.
_AGAIN = {
    "system.cpu": "grep '^cpu' /proc/stat; vmstat 1 5",
    "system.memory": "cat /proc/meminfo",
    "system.paging": "cat /proc/swaps; vmstat 1 5",
    "system.disk": "cat /proc/diskstats; iostat -x 1 5",
    "system.filesystem": "df -h; df -i",
    "linux.filesystem": "df -h; df -i",
    "system.network": "ip -s link",
    "linux.snmp": "nstat -a",
    "linux.tcp": "ss -tin",
    "linux.psi": "cat /proc/pressure/*",
    "linux.cgroup": "systemd-cgtop -n 2 || cat /proc/cgroups",
    "linux.vmstat": "cat /proc/vmstat",
    "process": "ps -eo pid,comm,pcpu,rss,stat",
    "linux.process": "ps -eo pid,comm,pcpu,rss,stat",
}


class SeriesArguments(Arguments):
    """A declared metric and the labels that its series must carry."""

    name: str = Field(max_length=100)
    labels: dict[str, str] = Field(default_factory=dict, max_length=6)


def series(case: Case, arguments: SeriesArguments) -> list[Evidence]:
    """Summarise a metric summed over the matching series: first, last, mean, lowest and highest level."""
    metric = METRICS.get(arguments.name)
    window = case.view.window
    if metric is None or not window.columns(arguments.name, **arguments.labels):
        return []
    level = window.level(arguments.name, **arguments.labels)
    seen = level[~np.isnan(level)]
    if not len(seen):
        return []
    unit = metric.unit + ("/s" if metric.kind == "counter" else "")
    values = _figures(seen)
    labels = ", ".join(f"{key}={value}" for key, value in sorted(arguments.labels.items()))
    what = f"{arguments.name}{{{labels}}}" if labels else arguments.name
    told = ", ".join(f"{key} {value:.4g}" for key, value in values.items())
    observation = case.view.observation
    return [
        Evidence(
            id=case.identify("ev", f"metric.series|{what}"),
            kind="metric",
            source="agents.tools.metric",
            statement=f"{what} over the window: {told} {unit}",
            values=values,
            unit=unit,
            reproduce=_again(arguments.name),
            trust="kernel",
            start=observation.start,
            end=observation.end,
            feature="series",
            series=(what,),
        )
    ]


def _figures(seen: FloatArray) -> dict[str, float]:
    """Levels rounded to what the statement prints, so that the two agree."""
    figures = {
        "first": seen[0],
        "last": seen[-1],
        "mean": seen.mean(),
        "lowest": seen.min(),
        "highest": seen.max(),
    }
    return {key: float(f"{value:.4g}") for key, value in figures.items()}


def _again(name: str) -> str:
    matches = [start for start in _AGAIN if name.startswith(start)]
    return _AGAIN[max(matches, key=len)] if matches else "diagnose record FILE; diagnose replay FILE -o json"


TOOLS = (Tool("metric.series", "one metric over the window, in figures", SeriesArguments, series),)
