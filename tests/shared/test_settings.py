"""Settings that are in files, as secrets are."""

from pathlib import Path

import pytest

from shared.settings import Settings, SettingsError

SECRET = "a secret of 32 characters at least"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """One in which the secret is in a file that ends as editors end it."""
    (tmp_path / "secret_key").write_text(f"{SECRET}\n")
    monkeypatch.setenv("KEYLEDGER_SECRET_KEY_FILE", str(tmp_path / "secret_key"))
    return monkeypatch


def test_secrets_are_read_from_the_files_that_are_named(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = {"REDIS_URL": "rediss://store:6379/0", "AUDIT_DATABASE_URL": "postgresql://database/keyledger"}
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
        environment.setenv(f"KEYLEDGER_{name}_FILE", str(tmp_path / name))
    settings = Settings.from_environment()
    assert settings.secret_key == SECRET
    assert [settings.redis_url, settings.audit_database_url] == list(files.values())


def test_the_key_of_the_audit_log_stays_in_its_file(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("KEYLEDGER_AUDIT_KEY_FILE", str(tmp_path / "secret_key"))
    assert Settings.from_environment().audit_key_file == tmp_path / "secret_key"


@pytest.mark.parametrize("name", ["missing", ".", "secret_key/below", "binary"])
def test_a_file_that_cannot_be_read_is_told_by_the_name_of_its_setting(
    environment: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfd")
    environment.setenv("KEYLEDGER_SECRET_KEY_FILE", str(tmp_path / name))
    with pytest.raises(SettingsError, match=r"^KEYLEDGER_SECRET_KEY_FILE names no file of text .* or set"):
        Settings.from_environment()


def test_an_empty_file_is_no_secret(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret_key").write_text("\n")
    environment.setenv("KEYLEDGER_REDIS_URL", "redis://store/0")
    with pytest.raises(SettingsError, match="KEYLEDGER_SECRET_KEY is not set"):
        Settings.from_environment()
