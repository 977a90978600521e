"""The command line. Only this file is imported for `sparring --help`; each command imports what it needs when it runs.

Exit codes: 0 done; 1 a measured failure (the loss became NaN, or a failed check with --fail-on-check); 2 bad input;
128 + the signal's number when stopped by SIGINT or SIGTERM, after saving.
"""

import difflib
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence

COMMANDS = (
    ("train", "SYSTEM", "train a model against an adversary"),
    ("evaluate", "RUN", "measure how robust a trained run is"),
    ("reproduce", "NAME", "put a method to the test against its baseline: arms, seeds, one verdict"),
    ("report", "RUN...", "write the page that shows the evidence"),
    ("score", "MODEL FLOWS", "say of every flow of a file whether it is an attack"),
    ("attack", "text MODEL", "show which texts of a file an attacker turns, and how"),
    ("list", "", "the systems, data sets and models there are, and your runs"),
    ("cite", "NAME", "BibTeX of what a system, or a run, uses"),
)

_HELP = """Train models against the worst an adversary can do, and prove how much that helped.

usage: sparring COMMAND ...

{commands}

Start here (handwritten digits, embedded; well under two minutes on a laptop):
  sparring train pgd-at --run runs/first
  sparring evaluate runs/first
  sparring report runs/first

Then, for example:
  sparring train pgd-at --data cifar10 --model preact-resnet18 --threat linf --eps 8/255
  sparring train standard --data my/images --size 64 --model mypackage.mymodule:factory
  sparring reproduce mixed-at --quick

Every command takes --run DIR (the run folder; by default a new one under runs/), --seed and --help.
eps is in input units: pixels are in [0, 1], and 8/255 may be written as it is.
Exit codes: 0 done, 1 a measured failure, 2 bad input, 130 or 143 stopped by a signal after saving."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_HELP.format(commands="\n".join(f"  {name + ' ' + what:<18}{does}" for name, what, does in COMMANDS)))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from sparring import __version__

        print(__version__)
        return 0
    name = arguments[0]
    names = [known for known, _, _ in COMMANDS]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return _fail(f"The command must be one of {', '.join(names)}. Got {name!r} instead.{hint}")
    return _run(name, arguments[1:])


def _run(name: str, arguments: list[str]) -> int:
    module = {"list": "listing"}.get(name, name)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            warnings.filterwarnings("once", message="The 'eps' parameter")  # a threat is made more than once in a run
            code: int = importlib.import_module(f"sparring.commands.{module}").run(arguments)
    except BrokenPipeError:  # whoever reads our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (ValueError, OSError, ImportError) as error:
        return _fail(str(error))
    except RuntimeError as error:
        from sparring.engine.job import DivergedError, InterruptedRunError
        from sparring.engine.machines import LostProcessError
        from sparring.engine.rank import first

        if isinstance(error, LostProcessError):
            return _fail(str(error), code=1)
        if isinstance(error, InterruptedRunError | DivergedError) and not first():
            return 0  # all processes stop at the same step: the first one says why
        if isinstance(error, InterruptedRunError):
            print(error, file=sys.stderr)
            return 128 + error.signal
        if isinstance(error, DivergedError):
            return _fail(str(error), code=1)
        raise
    except KeyboardInterrupt:
        return 130
    return code


def _fail(message: str, code: int = 2) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    from sparring.engine.rank import first

    if not first():
        return
    print(f"warning: {message}", file=sys.stderr)
