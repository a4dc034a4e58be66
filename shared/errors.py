"""Errors whose messages are shown to users."""


class UserFacingError(Exception):
    """An error that the user can fix. The message is one line that says how."""


class InvalidFieldError(UserFacingError, ValueError):
    """The input breaks a rule. The message names the field and the rule."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
