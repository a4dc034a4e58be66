"""What a service gets to attach its pages and calls to a web application."""

from dataclasses import dataclass, field

from flask import Flask

from shared.forensics import KeyForensics
from shared.identity import Authenticator
from shared.service.components import Container
from shared.web.app import JsonApi
from shared.web.server.limits import Limits


@dataclass(frozen=True)
class Web:
    """An application that is being built, the components, and what the services lend each other."""

    app: Flask
    api: JsonApi
    components: Container
    limits: Limits
    authenticator: Authenticator
    key_forensics: KeyForensics
    unread: set[str] = field(default_factory=set)  # paths whose request bodies are not read
