"""The tables. Times are Unix seconds, documents JSON text as published, identifiers ULIDs with their prefix."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

VERSION = 1


class Base(DeclarativeBase):
    """Base of all tables."""


class IncidentRow(Base):
    """One incident as it stands."""

    __tablename__ = "incidents"
    id: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    state: Mapped[str]
    opened: Mapped[float]
    changed: Mapped[float]
    title: Mapped[str]
    fault: Mapped[str]
    culprit: Mapped[str]
    __table_args__ = (Index("incidents_by_state", "state", "changed"),)


class IncidentEventRow(Base):
    """One change of an incident's state; rows are only ever added."""

    __tablename__ = "incident_events"
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    incident_id: Mapped[str] = mapped_column(ForeignKey("incidents.id"), index=True)
    time: Mapped[float]
    before: Mapped[str | None]
    after: Mapped[str]
    by: Mapped[str]
    reason: Mapped[str]


class RunRow(Base):
    """One round and its document."""

    __tablename__ = "runs"
    id: Mapped[str] = mapped_column(primary_key=True)
    incident_id: Mapped[str | None] = mapped_column(ForeignKey("incidents.id"), index=True)
    host: Mapped[str]
    finished: Mapped[float]
    status: Mapped[str]
    document: Mapped[str]
