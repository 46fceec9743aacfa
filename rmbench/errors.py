"""The exceptions that are shown as a message, never as a traceback."""


class UserError(Exception):
    """What was wrong and the way out, in words for the person at the terminal. The program exits with 2."""


class RunFailed(Exception):
    """A job stopped by itself: where its folder is and how to go on. The program exits with 1."""
