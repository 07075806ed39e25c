"""All SQL of the store. Repositories never commit: whoever opened the session does, at its end."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from wardround.errors import UserError
from wardround.ids import new_id
from wardround.models.document import Document
from wardround.models.incident import STATES, Incident, IncidentEvent, State, check_transition
from wardround.store.tables import IncidentEventRow, IncidentRow, RunRow

MAX_PAGE = 200


class Incidents:
    """The incidents and every change of their state."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def open(self, host: str, *, at: float, by: str, title: str = "", incident_id: str = "") -> Incident:
        """Add a new incident in state ``open``."""
        row = IncidentRow(
            id=incident_id or new_id("inc"),
            host=host,
            state="open",
            opened=at,
            changed=at,
            title=title,
            fault="",
            culprit="",
        )
        self._session.add(row)
        self._session.flush()  # the event refers to the row
        self._log(row.id, at, None, "open", by, "")
        return _incident(row)

    def get(self, incident_id: str) -> Incident | None:
        row = self._session.get(IncidentRow, incident_id)
        return None if row is None else _incident(row)

    def move(self, incident_id: str, after: State, *, at: float, by: str, reason: str = "") -> Incident:
        """Change an incident's state and log it.

        :raises UserError: the incident is unknown, or `after` may not follow its state
        """
        row = self._row(incident_id)
        before = _state(row.state)
        check_transition(before, after)
        row.state, row.changed = after, at
        self._log(incident_id, at, before, after, by, reason)
        return _incident(row)

    def name(self, incident_id: str, *, title: str, fault: str, culprit: str) -> None:
        """Write down what the diagnosis found. :raises UserError: the incident is unknown"""
        row = self._row(incident_id)
        row.title, row.fault, row.culprit = title, fault, culprit

    def recent(self, limit: int = 50) -> list[Incident]:
        """Return the incidents that changed last, at most `MAX_PAGE`."""
        query = select(IncidentRow).order_by(IncidentRow.changed.desc()).limit(min(limit, MAX_PAGE))
        return [_incident(row) for row in self._session.scalars(query)]

    def events(self, incident_id: str) -> list[IncidentEvent]:
        """Return every change of one incident, oldest first."""
        query = (
            select(IncidentEventRow).where(IncidentEventRow.incident_id == incident_id).order_by(IncidentEventRow.seq)
        )
        return [
            IncidentEvent(
                row.incident_id,
                row.time,
                None if row.before is None else _state(row.before),
                _state(row.after),
                row.by,
                row.reason,
            )
            for row in self._session.scalars(query)
        ]

    def _row(self, incident_id: str) -> IncidentRow:
        row = self._session.get(IncidentRow, incident_id)
        if row is None:
            raise UserError(f"there is no incident {incident_id}")
        return row

    def _log(self, incident_id: str, at: float, before: State | None, after: State, by: str, reason: str) -> None:
        self._session.add(
            IncidentEventRow(incident_id=incident_id, time=at, before=before, after=after, by=by, reason=reason)
        )


class Runs:
    """The rounds and their documents."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, document: Document) -> None:
        """Keep a finished round; a run that is there already is replaced."""
        self._session.merge(
            RunRow(
                id=document.run_id,
                incident_id=document.incident_id,
                host=document.host,
                finished=document.window.end.timestamp(),
                status=document.status,
                document=document.to_json(indent=None),
            )
        )

    def get(self, run_id: str) -> Document | None:
        row = self._session.get(RunRow, run_id)
        return None if row is None else Document.model_validate_json(row.document)

    def count(self) -> int:
        return self._session.scalar(select(func.count()).select_from(RunRow)) or 0

    def recent(self, limit: int = 50) -> list[Document]:
        """Return the last documents, newest first, at most `MAX_PAGE`."""
        query = select(RunRow).order_by(RunRow.finished.desc(), RunRow.id.desc()).limit(min(limit, MAX_PAGE))
        return [Document.model_validate_json(row.document) for row in self._session.scalars(query)]


def _state(text: str) -> State:
    return next(state for state in STATES if state == text)


def _incident(row: IncidentRow) -> Incident:
    return Incident(row.id, row.host, _state(row.state), row.opened, row.changed, row.title, row.fault, row.culprit)
