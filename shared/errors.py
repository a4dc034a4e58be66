"""Errors that are written for people."""


class UserFacingError(Exception):
    """What somebody can do something about: the message is one line that says what."""


class InvalidFieldError(UserFacingError, ValueError):
    """What was typed breaks a rule; the message names the field and the rule."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
