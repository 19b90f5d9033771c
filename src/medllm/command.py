"""How every command begins and ends: one message with a remedy instead of a traceback, and exit codes that mean something.

0 done, 1 failed, 2 the configuration is wrong, 130 and 143 interrupted.
"""

import errno
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, TypeVar

from medllm import ranks
from medllm.console import harmless
from medllm.errors import ConfigError, MedLLMError, RankError
from medllm.libraries import prepare_libraries
from medllm.redaction import redacted
from medllm.stopping import stop
from medllm.storage import explained_storage

Value = TypeVar("Value", int, str)

# What a file or folder of the user's is, and is not meant to be: another kind, not theirs, or with a name that no disk takes.
MISPLACED = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)

# Python makes no number of thousands of digits; the longest that anybody needs is a seed of 64 bits.
MOST_DIGITS = 100
DIGITS = f"digits 0 to 9, at most {MOST_DIGITS}"


def run_script(main: Callable[[list[str]], None], text: str | None) -> NoReturn:
    """What a file of `scripts/` does when it is started: `main` behind the gates, or its own text for -h and --help."""
    if {"-h", "--help"} & set(sys.argv):
        sys.exit(guarded(lambda: print(text)))
    prepare_libraries()
    stop.listen()  # SIGTERM too then ends by way of what cleans up
    sys.exit(guarded(lambda: main(sys.argv[1:])))


def guarded(action: Callable[[], None]) -> int:
    """Runs an action and turns what it raises into a message and an exit code."""
    try:
        with explained_storage():
            action()
            sys.stdout.flush()
    except BrokenPipeError:  # who read has read enough, as `| head` does; what is still to be written goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MedLLMError as error:
        return report(error)
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(bool(error.code))
    except OSError as error:
        if error.errno not in MISPLACED or error.filename is None:
            return _defect()
        fix = "name another file or folder, or put that one right"
        complain(f"{error.filename}: {os.strerror(error.errno)}\n    fix: {fix}")
        return 1
    except Exception:
        return _defect()
    return 0


def _defect() -> int:
    """Of medllm or of a library: its traceback as Python would show it, but for secrets."""
    print(redacted(traceback.format_exc()), end="", file=sys.stderr)
    return 1


def report(error: MedLLMError) -> int:
    """Tells why the program ends and returns its exit code."""
    complain(str(error), of_all=isinstance(error, ConfigError | RankError))
    return error.exit_code


def complain(text: str, *, of_all: bool = True) -> None:
    """Tells on stderr why the program ends. What all ranks come to, rank 0 tells alone."""
    text = harmless(redacted(text))  # an error may quote a file or a library
    if ranks.is_main():
        print(f"medllm: {text}", file=sys.stderr)
    elif not of_all:
        print(f"medllm: rank {ranks.rank()}: {text}", file=sys.stderr)


def pop_option(arguments: list[str], name: str, default: Value) -> tuple[list[str], Value]:
    """Takes a script's own `name=VALUE` out of its arguments; the rest are overrides. Numbers have a number as default.

    Raises:
        SystemExit: with code 2, if it should be a number and is none.
    """
    own = [argument for argument in arguments if argument.startswith(f"{name}=")]
    rest = [argument for argument in arguments if argument not in own]
    if not own:
        return rest, default
    value = own[-1].partition("=")[2]
    if isinstance(default, int) and not is_whole_number(value):
        complain(f"{name}={value}: is no whole number\n    allowed: {DIGITS}, such as {name}={default}")
        raise SystemExit(2)
    return rest, type(default)(value)


def is_whole_number(text: str) -> bool:
    """Whether it is of `DIGITS`: others count as digits, too, and are no number to Python, or one that nobody meant."""
    return text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS
