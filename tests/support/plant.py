# SPDX-License-Identifier: MIT
"""For scripts that show that a test can fail: they plant faults and see each found.

A list of faults has one a line: its file and what becomes of a text that is there just once.
"""
import os
import re
import shutil
import subprocess
from pathlib import Path

import tap

ROOT = Path(__file__).resolve().parents[2]


def call(command, **options):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
                          **options)


def read_faults(path):
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            yield re.fullmatch(r"(\S+): (.+) => (.+)", line).groups()


class Copy:
    """A copy of the tree, with a build of its own for one of its programs."""

    def __init__(self, folder, options, program):
        self.source = folder / "source"
        self.build = folder / "build"
        self.program = program
        shutil.copytree(ROOT, self.source, ignore=shutil.ignore_patterns("build-*", ".git"))
        self._make(["meson", "setup", self.build, self.source, *options])

    def _make(self, command):
        done = call(command)
        tap.expect(done.returncode == 0, done.stdout[-3000:])

    def run(self, arguments, seconds, wrapper=(), **variables):
        """The program's status, None where it takes longer than that, and what it said."""
        self._make(["ninja", "-C", self.build, self.program])
        environment = {name: value for name, value in os.environ.items()
                       if name not in ("GMEM_TEST_GROUP", "GMEM_TEST_STEPS", "GMEM_TEST_QUICK")}
        try:
            done = call([*wrapper, self.build / self.program, *arguments],
                        env={**environment, **variables}, timeout=seconds)
        except subprocess.TimeoutExpired:
            return None, "hangs"
        return done.returncode, done.stdout

    def plant(self, name, old, new):
        """The line of the fault, and what takes it out again."""
        path = self.source / name
        text = path.read_text()
        tap.expect(text.count(old) == 1, f"{name} has {text.count(old)} times: {old}")
        path.write_text(text.replace(old, new))
        return text[:text.index(old)].count("\n") + 1, lambda: path.write_text(text)


def check_all(run, faults, copy, judge):
    """Each must be found. judge() runs the copy's program; what it returns says how, if it was."""
    for fault in faults:
        run.check(" ".join(fault), _find, copy, fault, judge)


def _find(copy, fault, judge):
    line, restore = copy.plant(*fault)
    try:
        found = judge()
    finally:
        restore()
    print(f"# {fault[0] + ':' + str(line):<20} {found or 'not found':<11} {fault[1]} => {fault[2]}",
          flush=True)
    tap.expect(found, "not found")
