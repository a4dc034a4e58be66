"""Reads the settings even if some are invalid, so that everything else can be checked."""

import os
import re
from dataclasses import replace

from shared.service.checks import Finding, problem
from shared.settings import Settings, SettingsError

_NAME = re.compile(r"KEYLEDGER_[A-Z_]+")
_STORE = "KEYLEDGER_REDIS_URL"


def read_settings() -> tuple[Settings, list[Finding]]:
    """Returns the settings as if the invalid ones were unset, and what is wrong with those.

    Raises SettingsError for an error that no setting causes.
    """
    environment, findings, aside = dict(os.environ), list[Finding](), set[str]()
    try:
        while True:
            try:
                settings = Settings.from_environment()
            except SettingsError as error:
                # A setting that was unset here may be missing afterwards, which isn't another problem.
                if aside.isdisjoint(_NAME.findall(str(error))):
                    findings.append(problem(str(error), "Correct it: until then no process starts."))
                aside.add(_set_aside(error))
            else:
                # The store was unset here if only the secret that belongs to it is missing.
                return replace(settings, redis_url=environment.get(_STORE) or None), findings
    finally:
        os.environ.update(environment)


def _set_aside(error: SettingsError) -> str:
    """Unsets the first of the settings that an error names, also one from a file, and returns its name."""
    names: list[str] = _NAME.findall(str(error))
    for name in names:
        value, file = os.environ.pop(name, ""), os.environ.pop(f"{name}_FILE", "")
        if value or file:
            return name
    raise error
