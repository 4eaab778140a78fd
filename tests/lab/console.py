# SPDX-License-Identifier: MIT
"""What a guest says on its console: the lab's own lines, and what the kernel prints between them.

The lab's lines, written by init, start with "@lab": what runs, how it ended, and files, each as
gzip in base64 with its hash. All of it comes from the machine under test, so nothing is believed
that does not have the expected form.
"""
import base64
import binascii
import collections
import gzip
import hashlib
import io
import re
import zlib

FILE_MAX = 8 << 20
FAULT_LINES = 40

Ended = collections.namedtuple("Ended", "name status seconds")
Fault = collections.namedtuple("Fault", "program line text")

OWN = re.compile(r"@lab ([a-z]+)(?: (.*))?$")
# All other lines of the lab may have a message of the kernel in them.
DATA = re.compile(r"@lab data [A-Za-z0-9+/]+=*$")

# What a kernel prints when something in it is wrong. A stack trace is always one of these.
FAULTS = re.compile("|".join((
    r"------------\[ cut here \]------------",
    r"\b(?:WARNING|BUG|KASAN|KCSAN|UBSAN|KFENCE|Oops)\b(?: in)?:",
    r"\bOops\b", r"Kernel panic", r"\bPANIC:", r"kernel BUG at", r"Internal error:",
    r"INFO: (?:task|possible|trying|lockdep|suspicious|rcu)",
    r"rcu: INFO: rcu_\w+ (?:self-)?detected",
    r"suspicious RCU usage", r"possible (?:recursive|circular) locking", r"inconsistent lock state",
    r"soft lockup", r"hard LOCKUP", r"general protection fault, ", r"Unable to handle kernel",
    r"unable to handle page fault", r"Call [Tt]race:", r"scheduling while atomic",
    r"sleeping function called from invalid context", r"Out of memory: Killed",
)))
# What looks like some of them and is none: a program's own fault, which its tests may well want,
# and what a kernel says of its processor when it boots.
NO_FAULTS = re.compile("|".join((
    r"traps: .* general protection fault",
    r"(?i:spectre|retbleed|mds|mitigation)[^:]*: WARNING: ",
)))


def printable(text):
    """Text of a guest as a terminal can show it without being told what to do."""
    return "".join(char if char.isprintable() or char == "\t" else "?" for char in text)


def unpack(lines, digest):
    """The bytes of a file that came as lines of base64, or None if they were damaged."""
    try:
        packed = base64.b64decode("".join(lines), validate=True)
        with gzip.open(io.BytesIO(packed)) as stream:
            data = stream.read(FILE_MAX)
    except (binascii.Error, zlib.error, OSError, EOFError, ValueError):
        return None
    return data if hashlib.sha256(data).hexdigest() == digest else None


class Console:
    """Fed line by line. watch(event, value) hears of "begin", "end", and each "line" between."""

    def __init__(self, watch):
        self.watch = watch
        self.release = None
        self.running = None
        self.begun = []
        self.ended = []
        self.files = {}
        self.damaged = []
        self.faults = []
        self.said = []
        self.done = False
        self.lines = 0
        self._file = None
        self._data = []

    def feed(self, line):
        self.lines += 1
        own = OWN.search(line)
        handler = getattr(self, "_on_" + own[1], None) if own else None
        if handler:
            handler(own[2] or "")
        elif self.running:
            self.watch("line", printable(line))
        if not DATA.match(line):
            self._look(line)

    def _look(self, line):
        """Keeps a fault with the lines that follow it; a new program begins a new one."""
        if FAULTS.search(line) and not NO_FAULTS.search(line):
            last = self.faults[-1] if self.faults else None
            if not last or last.program != self.running or self.lines - last.line >= FAULT_LINES:
                self.faults.append(Fault(self.running, self.lines, []))
        if self.faults and self.lines - self.faults[-1].line < FAULT_LINES:
            self.faults[-1].text.append(printable(line))

    def _on_kernel(self, text):
        self.release = self.release or printable(text) or None

    def _on_problem(self, text):
        self.said.append(printable(text))

    def _on_begin(self, text):
        self.running = printable(text)
        self.begun.append(self.running)
        self.watch("begin", self.running)

    def _on_end(self, text):
        match = re.fullmatch(r"(\S+) (\d{1,3}) (\d{1,6})", text)
        if match and match[1] == self.running:
            self.ended.append(Ended(match[1], int(match[2]), int(match[3])))
            self.running = None
            self.watch("end", self.ended[-1])

    def _on_file(self, text):
        self._file, self._data = text, []

    def _on_data(self, text):
        self._data.append(text)

    def _on_eof(self, text):
        name = printable(self._file or "")
        data = unpack(self._data, text)
        if data is None or not name:
            self.damaged.append(name)
        else:
            self.files[(self.running, name)] = data
        self._file, self._data = None, []

    def _on_done(self, _text):
        self.done = True
