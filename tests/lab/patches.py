# SPDX-License-Identifier: MIT
"""The proof of a kernel series: that it applies, builds without a new warning, boots, breaks no
test, and takes the faults away that it names.

Each question leaves a record, as a test does.
"""
import collections
import contextlib
import datetime
import json
import time

import archive
import compare
import console
import kernel as kernels
import programs
import results
import runs
import selftests
import source
import sparse
import tree as trees
from runs import say

# What a patch is asked, in this order.
QUESTIONS = ("applies", "form", "checkpatch", "builds", "boots", "W=1", "sparse")
CODE = (".c", ".h", ".S")
# The two kernels of a proof, by the ends of their names.
BASE, PATCHED = "base", "patched"
# At the name of a selftest as the series has it, on the kernel without the series.
NEW = "-new"


# The two kernels of a flavour. folders: {BASE or PATCHED: the kernel's folder}. old, new: the
# selftests.Built without and with the series.
Pair = collections.namedtuple("Pair", "flavour bench folders old new")


class Told(trees.Refused):
    """A refusal that is in the records."""


class Proof:
    """What is known about one series."""

    def __init__(self, series):
        self.series = series
        self.name = f"patches-{series.name}"
        self.folder = runs.FOLDER / self.name
        self.records = []
        self.runs = []  # (BASE or PATCHED, its Run), always one after the other
        self.commits = []
        self.seen = set()  # the files that a compiler and sparse had
        self.tree = None

    @property
    def counts(self):
        return results.count(self.records)

    def record(self, what, question, verdict, reason=""):
        # What a patch and a guest have written may be in it.
        reason = console.printable(reason).replace("\t", " ")
        self.records.append(results.Record(what, question, verdict, reason))
        if verdict == "fail":
            say(f"{self.name}: {what}: {question}: {reason}")

    @contextlib.contextmanager
    def asking(self, what, question):
        """A question whose answer is yes, with the words put into the list, unless it is refused.

        A refusal is raised as Told: what follows stands on the answer.
        """
        words = []
        try:
            yield words
        except trees.Refused as refused:
            self.record(what, question, "fail", str(refused))
            raise Told(str(refused)) from refused
        self.record(what, question, "pass", ", ".join(words))

    def ask(self, what, question, function, *arguments):
        """The same of a function's refusal where nothing stands on the answer."""
        with contextlib.suppress(Told), self.asking(what, question):
            function(*arguments)

    # ---- The patches as text ----

    def apply(self):
        for patch in self.series.patches:
            with self.asking(patch.path.name, "applies"):
                commit = self.tree.apply(patch.path)
            self.commits.append(commit)
            self.ask(patch.path.name, "form", self.tree.check_form, commit, self.series.cover)
            self.ask(patch.path.name, "checkpatch", self.tree.check_style, patch.path)

    # ---- The patches as code ----

    def build(self, commit, flavour, words):
        start = time.monotonic()
        self.tree.checkout(commit)
        built = self.tree.build(flavour)
        words.append(f"{built} files")
        say(f"{self.name}: {built} files built in {time.monotonic() - start:.0f} s, {flavour}")

    def build_each(self, base, flavour, bench):
        """Builds and boots each commit, from the base's objects on, and compares its warnings."""
        mark = "" if flavour == "private" else f" {flavour}"
        checkers = {"W=1": ["W=1"], "sparse": ["C=2", f"CHECK={sparse.build(say)}"]}
        self.tree.start_objects(base)
        shown = self.probe(base, flavour, bench, BASE).status
        for patch, commit in zip(self.series.patches, self.commits):
            name, files = patch.path.name, self.tree.touched(commit)
            goals = goals_of(self.tree.objects_of(files))
            before = {question: self.tree.log_of(flavour, goals, arguments)
                      for question, arguments in checkers.items()}
            with self.asking(name, "builds" + mark) as words:
                self.build(commit, flavour, words)
            self.ask(name, "boots" + mark, self.see_boot, flavour, bench, name[:4], shown)
            objects = self.tree.objects_of(files)
            for question, arguments in checkers.items():
                if objects:
                    self.ask(name, question + mark, self.tree.compare_log, flavour,
                             goals_of(objects), arguments, before[question])
            self.seen.update(objects)

    def check_seen(self):
        """No file of code has been built nowhere."""
        for file in self.series.files:
            if (file.endswith(CODE) and not file.startswith("tools/testing/selftests/")
                    and file not in self.seen):
                self.record(self.name, "files", "fail", f"no build has {file}")

    # ---- In a machine ----

    def boot(self, folder, bench, chosen, flavour, machine, own, which):
        """A Run of some of libgmem's programs, and of the kernel's own."""
        kind = source.FLAVOURS[flavour]
        name = "-".join(filter(None, (self.name, flavour, machine, which)))
        run = runs.Run(kernels.Kernel(name, kind.arch, self.series.name, "source", flavour,
                                      "always", kind.machines[machine], ""))
        run.fixed = self.series.faults if which == PATCHED else []
        run.clear()
        run.boot(folder, bench, chosen, own)
        run.keep(True, True)
        return run

    def pack(self, flavour):
        folder = self.folder / f"kernel-{flavour}"
        source.copy_kernel(self.tree.folder, flavour, folder)
        return folder

    def probe(self, folder, flavour, bench, which):
        """How the program ended that shows a kernel's KVM; refuses a kernel without that end."""
        run = self.boot(folder, bench, programs.select(bench.programs, ["probe"]), flavour, "", [],
                        which)
        for record in compare.failures(run.records):
            raise trees.Refused(f"{record.test}: {record.reason}")
        return next(ended for ended in run.reader.ended if ended.name == "probe")

    def see_boot(self, flavour, bench, which, shown):
        """Refuses a kernel that does not show the same of its KVM as the one of the base."""
        status = self.probe(self.pack(flavour), flavour, bench, which).status
        if status != shown:
            raise trees.Refused(f"gmem probe ends with status {status}, before with {shown}")

    def build_selftests(self, flavour, commit, which):
        """The selftests.Built of one of the two kernels."""
        if source.FLAVOURS[flavour].arch != "x86-64":
            return selftests.Built({}, collections.Counter())
        with self.asking(self.name, f"selftests {which}"):
            self.tree.checkout(commit)
            return selftests.build(self.tree, flavour, self.folder / f"selftests-{which}")

    def build_pair(self, base, flavour, bench):
        """The Pair of a flavour, after each patch between the two has been looked at."""
        self.build_each(base, flavour, bench)
        folders = {BASE: base, PATCHED: self.pack(flavour)}
        old = self.build_selftests(flavour, self.tree.base, BASE)
        new = self.build_selftests(flavour, self.commits[-1], PATCHED)
        for warning in new.warnings - old.warnings:
            self.record(self.name, "selftests", "fail", f"a new warning: {warning}")
        return Pair(flavour, bench, folders, old, new)

    def boot_pair(self, pair):
        """Boots both kernels in each kind of machine and compares what their tests say."""
        brought = {name: path for name, path in pair.new.programs.items()
                   if any(file.endswith(f"/{name}.c") for file in self.series.files)}
        own = {BASE: selftests.list_programs(pair.old.programs)
                     + selftests.list_programs(brought, NEW),
               PATCHED: selftests.list_programs(pair.new.programs)}
        for machine in source.FLAVOURS[pair.flavour].machines:
            before, after = runs.side_by_side(
                2, self.boot, [(pair.folders[which], pair.bench, pair.bench.programs, pair.flavour,
                                machine, own[which], which) for which in (BASE, PATCHED)])
            self.runs += [(BASE, before), (PATCHED, after)]
            self.records += compare.judge_machine(after.kernel.name, before.records, after.records)
            if own[PATCHED]:
                self.judge_selftests(before.reader, after.reader,
                                     {**pair.old.programs, **pair.new.programs}, brought)
            own = {BASE: [], PATCHED: []}  # once is enough: they take most of the time

    def judge_selftests(self, before, after, names, brought):
        """The same before and after; what the series brings fails without it."""
        for name in names:
            found = selftests.read(after, name)
            wrong = list(compare.judge_selftest(selftests.read(before, name), found,
                                                name in brought))
            if name in brought:
                wrong += compare.judge_brought(selftests.read(before, name + NEW), found)
            if wrong:
                self.record(self.name, name, "fail", "; ".join(wrong))
            elif found[compare.PROGRAM] == "pass":
                self.record(self.name, name, "pass")
            else:  # what it would have found later, nobody knows
                self.record(self.name, name, "skip", f"{found[compare.PROGRAM]} before and after")

    def judge_faults(self):
        """Each has its own kinds of machine, and some kernel of the proof must show it."""
        records = [run.records for _, run in self.runs]
        for fault in self.series.faults:
            wrong = compare.judge_fault(fault, list(zip(records[::2], records[1::2])))
            self.record(self.name, fault, "fail" if wrong else "pass", wrong or "")

    # ---- All of it ----

    def build_all(self, folder, bases, bench_for):
        """The Pairs of all flavours, made in a folder with the source; none if a patch is refused.

        bases: {flavour: the kernel folder of the source}.
        """
        with contextlib.suppress(Told), trees.Tree(folder, self.series.files) as self.tree:
            self.apply()
            return [self.build_pair(base, flavour, bench_for(source.FLAVOURS[flavour].arch))
                    for flavour, base in bases.items()]
        return []

    def prove(self, flavours, bench_for):
        """flavours: what to build; without any, the patches are looked at as text."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            file = archive.of("amd64").fetch(self.series.base, say)
            bases = {flavour: source.build(file, flavour, say) for flavour in flavours}
            with (source.tree(file, say) if bases else
                  source.excerpt(file, self.series.files)) as folder:
                pairs = self.build_all(folder, bases, bench_for)
            # Others may need the tree, and what follows takes long.
            for pair in pairs:
                self.boot_pair(pair)
            if pairs:
                self.judge_faults()
                self.check_seen()
        except archive.Gone as gone:
            self.record(self.name, "source", "skip", str(gone))
        except Exception as error:  # whatever one series meets, the others are still asked
            said = f"{type(error).__name__}: {error}".strip().replace("\n", " | ")
            self.record(self.name, "proof", "fail", said[-600:])

    def keep(self):
        """Leaves proof.json, which the report reads, of a series that could be had."""
        if any(record.verdict != "skip" for record in self.records):
            (self.folder / "proof.json").write_text(json.dumps(self.as_data(), indent=1) + "\n")

    def as_data(self):
        return {
            "of": self.series.digest,
            "series": self.series.name, "base": self.series.base._asdict(),
            "date": datetime.date.today().isoformat(), "faults": self.series.faults,
            "patches": [patch.path.name for patch in self.series.patches],
            "runs": [{"kernel": run.kernel.name, "patched": which == PATCHED,
                      "release": run.reader.release,
                      "passed": run.counts["pass"], "failed": run.counts["fail"],
                      "skipped": run.counts["skip"], "seconds": round(run.outcome.seconds)}
                     for which, run in self.runs],
            "records": [record._asdict() for record in self.records],
        }


def goals_of(objects):
    """All goals of make that Tree.objects_of() has found."""
    return sorted(set().union(*objects.values()))


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
