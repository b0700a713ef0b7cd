"""The exceptions a user's mistake raises: a sentence, not a traceback."""


class UserError(Exception):
    """A mistake the user can mend. Its text names the file, the key and the remedy."""


class Unreadable(UserError, ValueError):
    """A file that does not hold what its name promises."""
