"""Errors that are written for people."""


class AdvisedError(Exception):
    """What somebody can do something about: the message is one line that says what."""
