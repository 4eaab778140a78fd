# SPDX-License-Identifier: MIT
"""For test scripts in Python: prints TAP and leaves the records that scripts/test counts.

The counterpart of tap.sh. See harness.h.
"""
import contextlib
import os
import re
import sys
from pathlib import Path


class Failure(Exception):
    """What a check found wrong."""


class Skip(Exception):
    """Why a check cannot run here."""


@contextlib.contextmanager
def changed(module, **values):
    """With other values of what a module or a class has."""
    old = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in old.items():
            setattr(module, name, value)


def expect(condition, message):
    if not condition:
        raise Failure(message)


class Run:
    """The checks of a script."""

    def __init__(self):
        script = Path(sys.argv[0]).absolute()
        self.program = script.name
        self.count = 0
        self.failed = False
        # The builds and tests that a script starts must not add records of their own.
        self.group = os.environ.pop("GMEM_TEST_GROUP", script.parent.name)
        path = os.environ.pop("GMEM_TEST_RESULTS", None)
        self.records = open(path, "a", encoding="utf-8") if path else None

    def check(self, name, function, *arguments):
        """Passes if the function returns."""
        try:
            function(*arguments)
        except Failure as failure:
            self.report(name, "fail", str(failure))
        except Skip as skip:
            self.report(name, "skip", str(skip))
        except Exception as error:  # whatever one check meets, the others still run
            self.report(name, "fail", f"{type(error).__name__}: {error}")
        else:
            self.report(name, "pass")

    def report(self, name, verdict, reason=""):
        self.count += 1
        self.failed |= verdict == "fail"
        tail = f" # SKIP {reason}" if verdict == "skip" else ""
        print(f"{'not ok' if verdict == 'fail' else 'ok'} {self.count} - {name}{tail}")
        if verdict == "fail":
            for line in reason.split("\n"):
                print(f"# {line}")
        if self.records:
            # A record is one line.
            row = (self.group, self.program, name, verdict, re.sub(r"\s", " ", reason))
            print(*row, sep="\t", file=self.records, flush=True)

    def end(self):
        """The exit status of the script."""
        print(f"1..{self.count}")
        return 1 if self.failed else 0
