"""Keeps one finished round: its document, and the incident it belongs to with every step it went through."""

from __future__ import annotations

from pathlib import Path

from wardround.models.document import Document
from wardround.store.repositories import Incidents, Runs
from wardround.store.session import open_store

RULES = "rules"


def save_run(state_dir: Path, document: Document) -> None:
    """Store a round in one transaction; a healthy round has no incident.

    :raises StateError: the store cannot be written
    """
    with open_store(state_dir) as session:
        incidents, runs = Incidents(session), Runs(session)
        if document.incident_id is not None and incidents.get(document.incident_id) is None:
            start, end = document.window.start.timestamp(), document.window.end.timestamp()
            incidents.open(document.host, at=start, by=RULES, title=document.summary, incident_id=document.incident_id)
            incidents.move(document.incident_id, "investigating", at=start, by=RULES)
            if document.hypotheses:
                first = document.hypotheses[0]
                incidents.name(
                    document.incident_id, title=document.summary, fault=first.fault, culprit=first.culprit.name
                )
                incidents.move(document.incident_id, "diagnosed", at=end, by=RULES, reason=document.summary)
        runs.add(document)
