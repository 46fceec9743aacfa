"""The exceptions that are shown as a message, never as a traceback."""

import errno


class UserError(Exception):
    """A message for the user: what is wrong and how to fix it. The program exits with 2."""


class RunFailed(Exception):
    """A job stopped by itself: where its folder is and how to go on. The program exits with 1."""


class Stopped(KeyboardInterrupt):
    """A signal asked a run to end, and what it had learnt was saved. The program exits with 128 + the signal's number.

    Like Ctrl-C it is no `Exception`: what catches failures, such as a sweep that goes on after one, lets it pass.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT)


def unwritable(error: OSError, place: object = None) -> Exception:
    """A UserError about a file or folder that cannot be written, or `error` itself if it is of another kind."""
    where = error.filename if place is None else place
    if where is None or error.errno not in CANNOT_WRITE:
        return error
    return UserError(f"{where}: {error.strerror}. Choose a writable file or folder.")
