"""What a user can get wrong, told in one line."""


class InputError(Exception):
    """Input that cannot be used. The message is one line and says what is wrong, where, and the cure.

    The command line prints it without a traceback and ends with exit code 1.
    """


class OutOfReachError(InputError):
    """A URL that gives no answer, or no access, so that nobody can tell what is there."""


class EnBenchWarning(UserWarning):
    """A result that holds, though not in the way the user may expect."""


def message_of(error: BaseException) -> str:
    """What an exception says, in one line; the name of its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
