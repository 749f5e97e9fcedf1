"""How every command ends: a user's mistake is told in plain words, anything else keeps its traceback."""

import functools
import sys

from tlimb.errors import InputError


def told_plainly(function):
    """Decorate a click callback so that InputError is printed on stderr without a traceback, exit status 1."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except InputError as error:
            print(error, file=sys.stderr)
            sys.exit(1)

    return wrapped
