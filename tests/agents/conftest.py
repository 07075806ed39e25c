"""Settings with a state folder of the test's own, and a budget that a misbehaving model cannot stretch."""

from __future__ import annotations

from pathlib import Path

import pytest

from wardround.settings import Budget, ModelSettings, Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", cache_dir=tmp_path / "cache")


def with_model(settings: Settings, url: str, *, timeout: float = 5.0, seconds: float = 30.0, **budget: int) -> Settings:
    """Return the settings with this endpoint."""
    return settings.model_copy(
        update={
            "model": ModelSettings(base_url=url, model="scripted", timeout=timeout),
            "budget": Budget(seconds=seconds, **budget),
        }
    )
