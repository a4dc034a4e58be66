"""Settings from the environment and from files: their defaults, and which values are rejected."""

from pathlib import Path
from unittest.mock import Mock

import pytest
from limits import parse

from shared.settings import SETTINGS, Settings, SettingsError

SECRET = "a secret of 32 characters at least"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment whose secret key is in a file that ends with a newline."""
    (tmp_path / "secret_key").write_text(f"{SECRET}\n")
    monkeypatch.setenv("KEYLEDGER_SECRET_KEY_FILE", str(tmp_path / "secret_key"))
    return monkeypatch


def test_secrets_are_read_from_the_configured_files(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {"REDIS_URL": "rediss://store:6379/0", "AUDIT_DATABASE_URL": "postgresql://database/keyledger"}
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
        environment.setenv(f"KEYLEDGER_{name}_FILE", str(tmp_path / name))
    settings = Settings.from_environment()
    assert settings.secret_key == SECRET
    assert [settings.redis_url, settings.audit_database_url] == list(files.values())


def test_the_audit_key_setting_is_a_path_and_its_file_is_not_read(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setenv("KEYLEDGER_AUDIT_KEY_FILE", str(tmp_path / "secret_key"))
    assert Settings.from_environment().audit_key_file == tmp_path / "secret_key"


@pytest.mark.parametrize("name", ["missing", ".", "secret_key/below", "binary"])
def test_an_unreadable_file_is_reported_with_the_name_of_its_setting(
    environment: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfd")
    environment.setenv("KEYLEDGER_SECRET_KEY_FILE", str(tmp_path / name))
    with pytest.raises(
        SettingsError, match=r"^KEYLEDGER_SECRET_KEY_FILE isn't a readable text file.* or set"
    ):
        Settings.from_environment()


@pytest.mark.parametrize("text", ["short", "s" * 31])
def test_a_secret_that_is_too_short_is_rejected(environment: pytest.MonkeyPatch, text: str) -> None:
    environment.delenv("KEYLEDGER_SECRET_KEY_FILE")
    environment.setenv("KEYLEDGER_SECRET_KEY", text)
    with pytest.raises(
        SettingsError, match=r"^KEYLEDGER_SECRET_KEY has fewer than 32 .*rand -hex 32"
    ) as refusal:
        Settings.from_environment()
    assert text not in str(refusal.value)


@pytest.mark.parametrize(("text", "host"), [("[::1]", "::1"), ("::", "::"), ("[name]", "[name]")])
def test_an_ipv6_host_may_be_in_brackets(environment: pytest.MonkeyPatch, text: str, host: str) -> None:
    environment.setenv("KEYLEDGER_HOST", text)
    assert Settings.from_environment().host == host


def test_an_empty_secret_file_counts_as_not_set(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret_key").write_text("\n")
    environment.setenv("KEYLEDGER_REDIS_URL", "redis://store/0")
    with pytest.raises(SettingsError, match="KEYLEDGER_SECRET_KEY is not set"):
        Settings.from_environment()


@pytest.mark.parametrize("empty", ["", "  ", "a file"])
def test_an_empty_setting_has_its_default_value(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty: str
) -> None:
    monkeypatch.delenv("KEYLEDGER_SECRET_KEY_FILE")
    default = Settings.from_environment()
    (tmp_path / "empty").write_text("\n")
    for name in SETTINGS:
        if empty == "a file":
            monkeypatch.setenv(f"KEYLEDGER_{name}_FILE", str(tmp_path / "empty"))
        else:
            monkeypatch.setenv(f"KEYLEDGER_{name}", empty)
            monkeypatch.setenv(f"KEYLEDGER_{name}_FILE", "")
    assert Settings.from_environment() == default


@pytest.mark.parametrize("setting", ["RATE_LIMIT", "SIGN_IN_LIMIT"])
@pytest.mark.parametrize(
    "text",
    [
        *("300/second; 10/minute", "300/second,10/minute", "300/second|10/minute", "300/second;"),
        *(
            "300/second garbage",
            "garbage 300/second",
            "300/seconds per key",
            "300/fortnight",
            "300",
            "second",
        ),
        *("0/second", "0 per minute", "-1/second", "1.5/second", "1/0 seconds", "1/-1 seconds"),
        *("1/999999999999 years", "9999999999/second", "٣/second"),
    ],
)
def test_a_setting_that_is_not_exactly_one_rate_is_rejected(
    environment: pytest.MonkeyPatch, setting: str, text: str
) -> None:
    environment.setenv(f"KEYLEDGER_{setting}", text)
    with pytest.raises(SettingsError, match=rf"^KEYLEDGER_{setting} is .* or 0 for no limit\.$"):
        Settings.from_environment()


@pytest.mark.parametrize("text", ["300/second", "5 per minute", "10/10 minutes", " 2/hour "])
def test_a_single_rate_is_accepted(environment: pytest.MonkeyPatch, text: str) -> None:
    environment.setenv("KEYLEDGER_RATE_LIMIT", text)
    assert Settings.from_environment().rate_limit == parse(text)


def test_a_rate_of_zero_means_no_limit(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("KEYLEDGER_RATE_LIMIT", "0")
    environment.setenv("KEYLEDGER_SIGN_IN_LIMIT", "0")
    assert (Settings.from_environment().rate_limit, Settings.from_environment().sign_in_limit) == (None, None)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        *(
            ("PORT", text)
            for text in ("0", "-1", "65536", "99999", "http", "80.5", "٣٠٠٠", "80_00", "9" * 5_000)
        ),
        *(
            ("ACK_REPLICAS", "-1"),
            ("TRUSTED_PROXIES", "-1"),
            ("VERIFIER_KEYS", "0"),
            ("VERIFIER_KEYS", "all"),
        ),
        *(("ALLOW_UNSAFE_STORE", "perhaps"), ("LOG_FORMAT", "xml")),
    ],
)
def test_an_invalid_value_is_rejected_with_the_allowed_values(
    environment: pytest.MonkeyPatch, setting: str, text: str
) -> None:
    environment.setenv(f"KEYLEDGER_{setting}", text)
    with pytest.raises(SettingsError, match=rf"^KEYLEDGER_{setting} must be .*\.$"):
        Settings.from_environment()


@pytest.fixture
def directory(environment: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The current directory, which is empty."""
    (tmp_path / "here").mkdir()
    environment.chdir(tmp_path / "here")
    environment.setenv("HOME", str(tmp_path / "home"))
    environment.delenv("XDG_DATA_HOME", raising=False)
    return tmp_path / "here"


def test_data_is_kept_in_the_home_directory_outside_a_clone(directory: Path) -> None:
    assert Settings.from_environment().data_dir == directory.parent / "home/.local/share/keyledger"


def test_xdg_data_home_moves_the_data(environment: pytest.MonkeyPatch, directory: Path) -> None:
    environment.setenv("XDG_DATA_HOME", str(directory.parent / "shared"))
    assert Settings.from_environment().data_dir == directory.parent / "shared/keyledger"


def test_a_relative_xdg_data_home_is_ignored(environment: pytest.MonkeyPatch, directory: Path) -> None:
    environment.setenv("XDG_DATA_HOME", "shared")
    assert Settings.from_environment().data_dir == directory.parent / "home/.local/share/keyledger"


def test_data_is_kept_in_a_clone(environment: pytest.MonkeyPatch, directory: Path) -> None:
    (directory / "pyproject.toml").write_text((Path(__file__).parents[2] / "pyproject.toml").read_text())
    environment.setenv("XDG_DATA_HOME", "/shared")
    assert Settings.from_environment().data_dir == directory / "data"


@pytest.mark.parametrize("text", [b'[project]\nname = "another"\n', b"\xff"])
def test_the_directory_of_another_project_is_not_a_clone(directory: Path, text: bytes) -> None:
    (directory / "pyproject.toml").write_bytes(text)
    assert Settings.from_environment().data_dir.name == "keyledger"


@pytest.mark.parametrize("kept", [[], ["store"], ["audit.db", "backup"], ["audit_key.pem"], ["secret_key"]])
def test_a_data_directory_that_is_empty_or_in_use_is_used_outside_a_clone(
    directory: Path, kept: list[str]
) -> None:
    (directory / "data").mkdir()
    for name in kept:
        (directory / "data" / name).touch()
    assert Settings.from_environment().data_dir == directory / "data"


def test_a_data_directory_with_other_files_is_left_alone(directory: Path) -> None:
    (directory / "data").mkdir()
    (directory / "data" / "measurements.csv").touch()
    assert Settings.from_environment().data_dir.name == "keyledger"


def test_a_data_directory_that_another_user_closed_is_not_replaced(
    environment: pytest.MonkeyPatch, directory: Path
) -> None:
    environment.setattr(Path, "iterdir", Mock(side_effect=PermissionError))
    assert Settings.from_environment().data_dir == directory / "data"


def test_the_data_directory_can_be_set_in_a_clone(environment: pytest.MonkeyPatch, directory: Path) -> None:
    (directory / "data" / "store").mkdir(parents=True)
    environment.setenv("KEYLEDGER_DATA_DIR", "elsewhere")
    assert Settings.from_environment().data_dir == directory / "elsewhere"
