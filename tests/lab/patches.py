# SPDX-License-Identifier: MIT
"""The proof of a kernel series: that it applies, builds without a new warning, boots, breaks no
test, and takes the faults away that it names.

Each question leaves a record, as a test does.
"""
import concurrent.futures
import contextlib
import datetime
import shutil
import tempfile
import time
from pathlib import Path

import archive
import cache
import compare
import kernel as kernels
import programs
import results
import runs
import selftests
import source
import tree as trees
from runs import say

# What a patch is asked, in this order.
QUESTIONS = ("applies", "form", "checkpatch", "builds", "W=1", "sparse")
CODE = (".c", ".h", ".S")
# The two kernels of a proof, by the ends of their names.
BASE, PATCHED = "base", "patched"
# At the name of a selftest as the series has it, on the kernel without the series.
NEW = "-new"


def sparse(say):
    """The program sparse of the newest suite, built: one of this machine's may be too old."""
    want = kernels.extras()["sparse"]

    def inputs(packages):
        return [Path(__file__), *(package.sha256 for package in packages)]

    packages = kernels.take(
        want, lambda locked: cache.find("sparse", inputs(locked)).is_dir(), say).packages

    def fill(folder):
        file = archive.of(want.architecture).fetch(packages[0], say)
        say(f"building {file.name}")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source.unpack(file, scratch)
            status, said = trees.call(["make", "sparse"], scratch)
            if status != 0:
                raise source.BuildError(f"{file.name} does not build:\n{said[-2000:]}")
            shutil.copy(Path(scratch, "sparse"), folder)

    return cache.entry("sparse", inputs(packages), fill) / "sparse"


class Proof:
    """What is known about one series."""

    def __init__(self, series):
        self.series = series
        self.name = f"patches-{series.name}"
        self.folder = runs.FOLDER / self.name
        self.records = []
        self.runs = []
        self.commits = []
        self.seen = set()  # the files that a compiler and sparse had
        self.tree = None

    @property
    def counts(self):
        return results.count(self.records)

    def record(self, what, question, verdict, reason=""):
        self.records.append(results.Record(what, question, verdict, reason))
        if verdict == "fail":
            say(f"{self.name}: {what}: {question}: {reason}")

    @contextlib.contextmanager
    def asking(self, what, question):
        """A question whose answer is yes, with the words put into the list, unless it is refused.

        A refusal is raised again: what follows stands on the answer.
        """
        words = []
        try:
            yield words
        except trees.Refused as refused:
            self.record(what, question, "fail", str(refused))
            raise
        self.record(what, question, "pass", ", ".join(words))

    def ask(self, what, question, function, *arguments):
        """The same of a function's refusal where nothing stands on the answer."""
        with contextlib.suppress(trees.Refused), self.asking(what, question):
            function(*arguments)

    # ---- The patches as text ----

    def apply(self):
        for patch in self.series.patches:
            with self.asking(patch.path.name, "applies"):
                commit = self.tree.apply(patch.path)
            self.commits.append(commit)
            self.ask(patch.path.name, "form", self.tree.check_form, commit)
            self.ask(patch.path.name, "checkpatch", self.tree.check_style, patch.path)

    # ---- The patches as code ----

    def build(self, commit, flavour, words):
        start = time.monotonic()
        self.tree.checkout(commit)
        built = self.tree.build(flavour)
        words.append(f"{built} files")
        say(f"{self.name}: {built} files built in {time.monotonic() - start:.0f} s, {flavour}")

    def build_each(self, base, flavour):
        """Builds each commit from the base's objects on, and compares its warnings."""
        mark = "" if flavour == "private" else f" {flavour}"
        checkers = {"W=1": ["W=1"], "sparse": ["C=2", f"CHECK={sparse(say)}"]}
        self.tree.start_objects(base)
        for patch, commit in zip(self.series.patches, self.commits):
            name, files = patch.path.name, self.tree.touched(commit)
            goals = self.tree.objects_of(files)
            before = {question: self.tree.log_of(flavour, goals.values(), arguments)
                      for question, arguments in checkers.items()}
            with self.asking(name, "builds" + mark) as words:
                self.build(commit, flavour, words)
            goals = self.tree.objects_of(files)
            for question, arguments in checkers.items():
                if goals:
                    self.ask(name, question + mark, self.tree.compare_log, flavour,
                             goals.values(), arguments, before[question])
            self.seen.update(goals)

    def check_seen(self):
        """No file of code has been built nowhere."""
        for file in self.series.files:
            if (file.endswith(CODE) and not file.startswith("tools/testing/selftests/")
                    and file not in self.seen):
                self.record(self.name, "files", "fail", f"no build has {file}")

    # ---- In a machine ----

    def boot(self, folder, bench, flavour, machine, own, which):
        """A Run of one of the two kernels with libgmem's programs, and with the kernel's own."""
        kind = source.FLAVOURS[flavour]
        name = "-".join(filter(None, (self.name, flavour, machine, which)))
        run = runs.Run(kernels.Kernel(name, kind.arch, self.series.name, "source", flavour,
                                      "always", kind.machines[machine], ""))
        chosen = bench.programs
        if which == PATCHED:
            chosen = programs.without_faults(chosen, self.series.faults)
        run.clear()
        run.boot(folder, bench, chosen, own)
        run.keep(True, True)
        self.runs.append(run)
        return run

    def pack(self, flavour):
        folder = self.folder / f"kernel-{flavour}"
        source.copy_kernel(self.tree.folder, flavour, folder)
        return folder

    def build_selftests(self, flavour, commit, which):
        """{name: program} of one of the two kernels."""
        if source.FLAVOURS[flavour].arch != "x86-64":
            return {}
        with self.asking(self.name, f"selftests {which}"):
            self.tree.checkout(commit)
            return selftests.build(self.tree, flavour, self.folder / f"selftests-{which}")

    def boot_both(self, base, flavour, bench):
        """Boots both kernels in each kind of machine and compares what their tests say."""
        old = self.build_selftests(flavour, self.tree.base, BASE)
        new = self.build_selftests(flavour, self.commits[-1], PATCHED)
        brought = {name: path for name, path in new.items()
                   if any(file.endswith(f"/{name}.c") for file in self.series.files)}
        own = {BASE: selftests.list_programs(old) + selftests.list_programs(brought, NEW),
               PATCHED: selftests.list_programs(new)}
        pairs = []
        for machine in source.FLAVOURS[flavour].machines:
            sides = [(folder, bench, flavour, machine, own[which], which)
                     for folder, which in ((base, BASE), (self.pack(flavour), PATCHED))]
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                before, after = pool.map(lambda side: self.boot(*side), sides)
            pairs.append((before.records, after.records))
            self.records += compare.judge_machine(after.kernel.name, *pairs[-1])
            if own[PATCHED]:
                self.judge_selftests(before, after, new, brought)
            own = {BASE: [], PATCHED: []}  # once is enough: they take most of the time
        for fault in self.series.faults:
            wrong = compare.judge_fault(fault, pairs)
            self.record(f"{self.name}-{flavour}", fault, "fail" if wrong else "pass", wrong or "")

    def judge_selftests(self, before, after, names, brought):
        """The same before and after; what the series brings fails without it."""
        for name in names:
            wrong = list(compare.judge_selftest(selftests.read(before.reader, name),
                                                selftests.read(after.reader, name),
                                                name in brought))
            if selftests.read(before.reader, name + NEW)["(program)"] == "pass":
                wrong.append("as the series has it, it passes without the series")
            self.record(after.kernel.name, name, "fail" if wrong else "pass", "; ".join(wrong))

    # ---- All of it ----

    def prove_in(self, folder, bases, bench_for):
        """In a folder with the source. bases: {flavour: the kernel folder of the source}."""
        with trees.Tree(folder, self.series.files) as self.tree, \
                contextlib.suppress(trees.Refused):  # it is in the records
            self.apply()
            for flavour, base in bases.items():
                self.build_each(base, flavour)
                self.boot_both(base, flavour, bench_for(source.FLAVOURS[flavour].arch))
            if bases:
                self.check_seen()

    def prove(self, flavours, bench_for):
        """flavours: what to build; without any, the patches are looked at as text."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            file = archive.of("amd64").fetch(self.series.base, say)
            bases = {flavour: source.build(file, flavour, say) for flavour in flavours}
            with (source.tree(file, say) if bases else
                  source.excerpt(file, self.series.files)) as folder:
                self.prove_in(folder, bases, bench_for)
        except archive.Gone as gone:
            self.record(self.name, "source", "skip", str(gone))
        except source.BuildError as error:
            self.record(self.name, "source", "fail", str(error).replace("\n", " | ")[-600:])

    def as_data(self):
        return {
            "series": self.series.name, "base": self.series.base._asdict(),
            "date": datetime.date.today().isoformat(), "faults": self.series.faults,
            "patches": [patch.path.name for patch in self.series.patches],
            "runs": [{"kernel": run.kernel.name, "patched": run.kernel.name.endswith(PATCHED),
                      "release": run.reader.release,
                      "passed": run.counts["pass"], "failed": run.counts["fail"],
                      "skipped": run.counts["skip"], "seconds": round(run.outcome.seconds)}
                     for run in self.runs],
            "records": [record._asdict() for record in self.records],
        }


def flavours_of(series, full):
    """What a series is built as. arm64's own code has no other build."""
    found = ["private"]
    if full:
        found.append("sanitized")
    if full or any(file.startswith("arch/arm64/") for file in series.files):
        found.append("arm64")
    return found


def rows(proofs):
    """The table of all patches: a column a question."""
    yield ("series", "patch", *QUESTIONS)
    for proof in proofs:
        for patch in proof.series.patches:
            answers = {record.test: record for record in proof.records
                       if record.program == patch.path.name}
            yield (proof.series.name, patch.path.name.removesuffix(".patch"),
                   *(cell(answers.get(question)) for question in QUESTIONS))


def cell(record):
    if not record:
        return "-"
    return "NO" if record.verdict == "fail" else record.reason or "yes"
