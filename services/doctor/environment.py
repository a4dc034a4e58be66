"""Reads the settings although some are of no use, so that all else can be looked at."""

import os
import re
from dataclasses import replace

from shared.service.checks import Finding, problem
from shared.settings import Settings, SettingsError

_NAME = re.compile(r"KEYLEDGER_[A-Z_]+")
_STORE = "KEYLEDGER_REDIS_URL"


def read_settings() -> tuple[Settings, list[Finding]]:
    """The settings as if those of no use were not set, and what is wrong with those.

    Raises SettingsError for what no setting is the cause of.
    """
    environment, findings, aside = dict(os.environ), list[Finding](), set[str]()
    try:
        while True:
            try:
                settings = Settings.from_environment()
            except SettingsError as error:
                # One that was set aside may be missed afterwards, which is not another fault.
                if aside.isdisjoint(_NAME.findall(str(error))):
                    findings.append(problem(str(error), "Set it right: no process starts before."))
                aside.add(_set_aside(error))
            else:
                # It was set aside if only the secret is missing that belongs to it.
                return replace(settings, redis_url=environment.get(_STORE) or None), findings
    finally:
        os.environ.update(environment)


def _set_aside(error: SettingsError) -> str:
    """Unsets the first setting that is set of those that an error names, also one that a file holds.

    Returns its name.
    """
    names: list[str] = _NAME.findall(str(error))
    for name in names:
        value, file = os.environ.pop(name, ""), os.environ.pop(f"{name}_FILE", "")
        if value or file:
            return name
    raise error
