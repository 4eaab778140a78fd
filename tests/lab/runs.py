# SPDX-License-Identifier: MIT
"""One kernel's run in the lab, from its files to its records, and the folder that keeps them."""
import concurrent.futures
import datetime
import json
import os
import sys
import threading
import time

import console
import machine
import programs
import results

FOLDER = programs.ROOT / "build-lab"

lock = threading.Lock()
started = time.monotonic()


def say(text):
    with lock:
        print(f"[{time.monotonic() - started:5.0f} s] {text}", flush=True)


def side_by_side(jobs, function, calls):
    """What a function returns for each tuple of arguments, so many at a time.

    An interrupt ends the process at once. Waiting would be for machines, which end with it; what is
    half made is removed by the next run.
    """
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        try:
            return [future.result()
                    for future in [pool.submit(function, *call) for call in calls]]
        except KeyboardInterrupt:
            print("lab: interrupted", file=sys.stderr, flush=True)
            os._exit(130)


def export(name, records, file):
    """Records in the form of harness.h, for the summary of scripts/test."""
    for record in records:
        print("lab", name, f"{record.program}:{record.test}", record.verdict, record.reason,
              sep="\t", file=file)


class Run:
    """The records of a kernel, and how its machine went."""

    def __init__(self, kernel, watch=None):
        self.kernel = kernel
        self.fixed = kernel.series.faults if kernel.series else []  # known faults it has no more
        self.folder = FOLDER / kernel.name
        self.records = []
        self.locked = True
        self.outcome = None
        self.reader = console.Console(watch or self._watch)

    @property
    def counts(self):
        return results.count(self.records)

    @property
    def booted(self):
        return self.reader.release is not None

    @property
    def console_log(self):
        return self.folder / "console.txt"

    def fail(self, test, reason):
        self.records.append(results.Record(results.MACHINE, test, "fail", reason))

    def skip(self, reason):
        self.records.append(results.Record(results.MACHINE, "boot", "skip", reason))

    def _watch(self, event, value):
        """Says how a program went, as soon as it ended."""
        if event != "end":
            return
        count = results.count(results.read_records(
            self.reader.files.get((value.name, "records"), b"")))
        tests = f"{count['pass']:4} passed {count['skip']:4} skipped" if count else " " * 24
        failed = f"  {count['fail']} FAILED" if count["fail"] else ""
        say(f"{self.kernel.name:14} {value.name:14} {tests} {value.seconds:4} s{failed}")

    def clear(self):
        """Removes what an earlier run left, which is not to be taken for this one's."""
        for path in (self.folder / "run.json", self.console_log):
            path.unlink(missing_ok=True)

    def boot(self, folder, bench, chosen, others=()):
        """Runs the machine with the chosen programs, and judges what it said.

        others: programs that run before them, for the caller to judge.
        """
        say(f"{self.kernel.name:14} boots Linux {(folder / 'release').read_text().strip()}")
        everything = [*others, *programs.without_faults(chosen, self.fixed)]
        self.execute(folder, bench, programs.files(bench.build, everything),
                     programs.plan(everything, self.kernel.patience))
        self.records = results.judge(self.outcome, self.reader, chosen, self.fixed)

    def execute(self, folder, bench, files, plan):
        """Runs the machine with any plan."""
        self.folder.mkdir(parents=True, exist_ok=True)
        image = self.folder / f"image-{os.getpid()}"
        try:
            machine.make_image(image, folder, bench.busybox, files, plan)
            self.outcome = machine.run(machine.command(self.kernel, folder, image),
                                       self.console_log, self.reader, self.kernel.patience)
        finally:
            image.unlink(missing_ok=True)

    def keep(self, whole, keep_console):
        """Leaves run.json, which the report reads, and the console of a run that failed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "run.json").write_text(json.dumps({
            "kernel": self.kernel.name, "arch": self.kernel.arch, "whole": whole,
            "locked": self.locked, "release": self.reader.release, "booted": self.booted,
            "date": datetime.date.today().isoformat(),
            "seconds": round(self.outcome.seconds, 1) if self.outcome else None,
            "probe": results.get_probe(self.reader),
            "records": [record._asdict() for record in self.records],
        }, indent=1) + "\n")
        if not self.counts["fail"] and not keep_console:
            self.console_log.unlink(missing_ok=True)
