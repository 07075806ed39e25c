"""Where settings come from, in which order, and what is said when they are wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wardround import settings as module
from wardround.errors import UserError
from wardround.settings import MASK, Settings, load


@pytest.fixture(autouse=True)
def layers(tmp_path, monkeypatch):
    """Point every layer at empty folders, so that the host's own files play no part."""
    for name in [name for name in os.environ if name.startswith("WARDROUND_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(module, "SYSTEM_FILE", tmp_path / "etc.toml")
    (tmp_path / "xdg" / "wardround").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)


def test_a_flag_beats_environment_beats_files_beats_default(layers, monkeypatch):
    write(layers / "etc.toml", "window = 11\nring = 100\nfalse_alarms = 1.0\n[budget]\ntool_calls = 3\n")
    write(layers / "xdg/wardround/config.toml", "window = 12\nring = 101\nfalse_alarms = 2.0\n")
    write(layers / "here/wardround.toml", "window = 13\nring = 102\n")
    monkeypatch.setenv("WARDROUND_WINDOW", "14")
    loaded = load({"window": 15, "ring": None})
    assert (loaded.settings.window, loaded.settings.ring, loaded.settings.false_alarms) == (15, 102, 2.0)
    assert loaded.settings.budget.tool_calls == 3
    origins = {key: origin for key, _, origin in loaded.explain()}
    assert origins["window"] == "flag for window"
    assert origins["ring"] == "./wardround.toml"
    assert origins["false_alarms"] == str(layers / "xdg/wardround/config.toml")
    assert origins["budget.tool_calls"] == str(layers / "etc.toml")
    assert origins["budget.seconds"] == "default"


def test_nested_environment_and_lists(monkeypatch):
    monkeypatch.setenv("WARDROUND_MODEL__TIMEOUT", "5")
    monkeypatch.setenv("WARDROUND_LOG_FILES", "/var/log/a.log, /var/log/b.log")
    loaded = load()
    assert loaded.settings.model.timeout == 5
    assert loaded.settings.log_files == (Path("/var/log/a.log"), Path("/var/log/b.log"))
    assert loaded.origins["model.timeout"] == "WARDROUND_MODEL__TIMEOUT"


def test_secrets_come_from_files_and_are_never_shown(layers, monkeypatch):
    (layers / "key").write_text("sk-one\n")
    (layers / "credentials").mkdir()
    (layers / "credentials" / "model.api_key").write_text("sk-two\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(layers / "credentials"))
    by_credential = load()
    assert by_credential.settings.model.api_key.get_secret_value() == "sk-two"
    monkeypatch.setenv("WARDROUND_MODEL__API_KEY_FILE", str(layers / "key"))
    by_file = load()
    assert by_file.settings.model.api_key.get_secret_value() == "sk-one"
    shown = {key: value for key, value, _ in by_file.explain()}
    assert shown["model.api_key"] == MASK
    assert "sk-" not in repr(by_file.settings) + repr(by_file.explain())


def test_a_project_file_that_others_can_write_is_ignored_and_said(layers):
    write(layers / "here/wardround.toml", "window = 13\n")
    (layers / "here/wardround.toml").chmod(0o666)
    loaded = load()
    assert loaded.settings.window == Settings().window
    assert "ignored" in loaded.notes[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("widnow = 3\n", "did you mean 'window'?"),
        ("[model]\nbaseurl = 'x'\n", "did you mean 'model.base_url'?"),
        ("window = 'long'\n", "the setting 'window' has a wrong value"),
        ("window = 1e9\n", "less than or equal to 3600"),
        ("model = 3\n", "the setting 'model'"),
        ("log_files = 3\n", "the setting 'log_files'"),
        ("window = \n", "cannot be read"),
        ("window = \x00\n", "cannot be read"),
    ],
)
def test_a_wrong_file_is_told_in_a_sentence_that_names_it(layers, text, says):
    write(layers / "xdg/wardround/config.toml", text)
    with pytest.raises(UserError) as caught:
        load()
    assert says in str(caught.value)
    assert "config.toml" in str(caught.value)


def test_a_wrong_secret_is_not_repeated_in_the_message(layers, monkeypatch):
    write(layers / "etc.toml", "[model]\napi_key = ['sk-visible']\n")
    with pytest.raises(UserError) as caught:
        load()
    assert "sk-visible" not in str(caught.value)


def test_an_unknown_nested_variable_is_refused_and_a_foreign_one_left_alone(monkeypatch):
    monkeypatch.setenv("WARDROUND_SERVICE_HOST", "10.0.0.1")
    assert load().settings == Settings()
    monkeypatch.setenv("WARDROUND_MODEL__URL", "x")
    with pytest.raises(UserError, match=r"there is no setting 'model.url'"):
        load()


def test_a_missing_secret_file_is_a_user_error(monkeypatch):
    monkeypatch.setenv("WARDROUND_MODEL__API_KEY_FILE", "/nonexistent")
    with pytest.raises(UserError, match="secret file"):
        load()
