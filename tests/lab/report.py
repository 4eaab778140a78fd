# SPDX-License-Identifier: MIT
"""docs/kernels.md: what each kernel does, as the lab's last whole runs measured it.

The page is its own memory: columns of kernels that did not run since are read from it and kept, so
that no run has to boot them all.
"""
import collections
import json
import re

import kernel as kernels
import programs
import results
import runs
import series

PAGE = programs.ROOT / "docs/kernels.md"

INTRO = """\
<!-- SPDX-License-Identifier: MIT -->
# What each kernel does

Measured by `scripts/lab run`, which boots these kernels under software emulation, with KVM working
inside, and runs libgmem's tests there; written by `scripts/lab report`. Nothing here is taken from
a version number, and the library does not look at one: it asks or tries, as the tests do. Where
this page and another document differ, the kernel is right.
"""
KERNELS = """\
A kernel is a line of `tests/lab/kernels`, which says where it comes from. Seconds are those of the
whole machine from power-on to power-off, on a 2-core cloud VM that ran two machines at a time.
"""
SERIES = """\
The series of `patches/`, as the last `scripts/lab patches` proved each: questions answered with yes
and with no, those without an answer, the known faults that the kernel no longer has, and the tests
that passed with it on each machine. The hash is that of the files of the series.
"""
CAPS = """\
What `gmem probe` reports of each type of VM.
"""
DIFFER = """\
Tests of `tests/kernel` that allow more than one answer, and what each kernel answered. Known faults
of kernels are among them by name.
"""
ALIKE = """\
The same for tests on which all kernels agree that could run them.
"""
TESTS = """\
✓ passed, ✗ failed. A number: skipped, for the reason with that number at the end of the page; after
a ✓, a part of the tests of that name was skipped.
"""
PROVED = ("series", "hash", "for", "patches", "yes", "no", "open", "faults gone", "tests passed",
          "seconds", "date")
ABOUT = ("release", "architecture", "passed", "failed", "skipped", "seconds", "date")
# What changes from run to run though the kernel does not.
VOLATILE = ("seconds", "date")
# What does not though a series is proved with more kernels.
STEADY = ("for", "patches", "faults gone")
PASS, FAIL, NONE = "✓", "✗", "-"


class Column:
    """What the page has about one kernel. Tests: {name: (mark or "", reasons of skips)}."""

    def __init__(self, about=None, caps=None, notes=None, tests=None):
        self.about = about or {}
        self.caps = caps or {}
        self.notes = notes or {}
        self.tests = tests or {}

    def steady(self):
        """All that a later run of the same kernel should repeat."""
        about = {name: cell for name, cell in self.about.items() if name not in VOLATILE}
        return {"about": about, "capability": self.caps, "note": self.notes, "test": self.tests}


# ---- From runs -----------------------------------------------------------------------------------


def name_of(record):
    """A test without its place in a loop, as people read it."""
    test = re.sub(r"\[[0-9]+\]$", "", record.test)
    return f"{record.program}: {test}".replace("_", " ")


def describe_cap(name, cap):
    if cap["state"] != "supported":
        return {"unsupported": "no"}.get(cap["state"], "unknown")
    if cap.get("names"):
        return " ".join(cap["names"])
    return str(cap["value"]) if re.match("nr_|.*_(bits|types)$", name) else "yes"


def read_caps(probe):
    """{"VM type: capability": its value in words}"""
    found = {}
    for vm in probe["vm_types"] if probe else ():
        for name, cap in (vm["capabilities"] or {}).items():
            found[f"{vm['name']}: {name}"] = describe_cap(name, cap)
    return found


def join_verdicts(records):
    verdicts = {record.verdict for record in records}
    mark = FAIL if "fail" in verdicts else PASS if "pass" in verdicts else ""
    return mark, tuple(sorted({r.reason for r in records if r.verdict == "skip"}))


def group(records):
    found = collections.defaultdict(list)
    for record in records:
        if record.program != results.MACHINE:
            found[name_of(record)].append(record)
    return found


def read_run(data):
    """The Column of a run.json."""
    records = [results.Record(**record) for record in data["records"]]
    about = dict.fromkeys(ABOUT, NONE) | {"architecture": data["arch"]}
    if data["booted"]:
        count = results.count(records)
        release = data["release"] + ("" if data["locked"] else " (unlocked)")
        about |= {"release": release, "passed": str(count["pass"]),
                  "failed": str(count["fail"]), "skipped": str(count["skip"]),
                  "seconds": str(round(data["seconds"])), "date": data["date"]}
    notes = group(record for record in records if record.verdict == "note")
    tests = group(record for record in records if record.verdict != "note")
    return Column(
        about, read_caps(data["probe"]),
        {name: "; ".join(dict.fromkeys(r.reason for r in own)) for name, own in notes.items()},
        {name: join_verdicts(own) for name, own in tests.items()})


def read_runs():
    """{kernel: what its run.json has}

    Of whole runs only, since a part says nothing of the rest, and not of kernels that could not be
    had for once: what the page tells of them still holds.
    """
    found = {}
    for kernel in kernels.read_table():
        path = runs.FOLDER / kernel.name / "run.json"
        data = json.loads(path.read_text()) if path.exists() else {"whole": False}
        if data["whole"] and (data["booted"] or kernel.when == "never"):
            found[kernel.name] = data
    return found


def read_proof(data):
    """The row of a proof.json."""
    count = results.count([results.Record(**record) for record in data["records"]])
    cells = (data["series"], data["of"], f"{data['base']['name']} {data['base']['version']}",
             len(data["patches"]), count["pass"], count["fail"], count["skip"],
             " ".join(data["faults"]) or NONE,
             " ".join(str(run["passed"]) for run in data["runs"] if run["patched"]),
             sum(run["seconds"] for run in data["runs"]), data["date"])
    return dict(zip(PROVED, map(str, cells)))


def read_proofs(hashes):
    """{series: its row} of those that were proved here as they are."""
    found = {}
    for name, digest in hashes.items():
        path = runs.FOLDER / f"patches-{name}/proof.json"
        data = json.loads(path.read_text()) if path.exists() else {"of": None}
        if data["of"] == digest:
            found[name] = read_proof(data)
    return found


# ---- The page ------------------------------------------------------------------------------------


def escape(cell):
    return (cell or " ").replace("|", "\\|")


def table(rows):
    """Markdown of rows of cells, the first of them the head, with its columns aligned."""
    rows = [[escape(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
             for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def rows_of(columns, member, keep=lambda cells: True):
    """A row for each name in that member of the columns, in the order of their coming."""
    names = dict.fromkeys(name for column in columns.values() for name in getattr(column, member))
    for name in names:
        cells = [getattr(column, member).get(name, "") for column in columns.values()]
        if keep(cells):
            yield [name, *cells]


def differ(cells):
    return len({cell for cell in cells if cell}) > 1


class Reasons:
    """Numbers for the reasons of skips, in the order of their coming."""

    def __init__(self):
        self.numbers = {}

    def cell(self, verdict):
        if not verdict:
            return ""
        mark, reasons = verdict
        return " ".join([mark] * bool(mark) + [
            str(self.numbers.setdefault(reason, len(self.numbers) + 1)) for reason in reasons])


def render_kernels(columns, remarks):
    yield ["kernel", *ABOUT, "remark"]
    for name, column in columns.items():
        yield [name, *(column.about[key] for key in ABOUT), remarks[name]]


def render_tests(columns, reasons):
    """A table for each program."""
    rows = list(rows_of(columns, "tests"))
    for program in dict.fromkeys(row[0].split(": ")[0] for row in rows):
        own = [row for row in rows if row[0].split(": ")[0] == program]
        yield f"### {program}\n\n" + table([["test", *columns]] + [
            [row[0].partition(": ")[2], *map(reasons.cell, row[1:])] for row in own])


def render_alike(columns):
    yield ["", "answer", "not asked on"]
    for name, *cells in rows_of(columns, "notes", lambda cells: not differ(cells)):
        lacking = [kernel for kernel, cell in zip(columns, cells) if not cell]
        yield [name, next(filter(None, cells)), " ".join(lacking)]


def render(columns, remarks, proofs=None):
    reasons = Reasons()
    # A kernel that is not to be had has no column but in the first table.
    had = {name: column for name, column in columns.items() if column.tests}
    head = ["", *had]
    tests = "\n".join(render_tests(had, reasons))
    numbered = "\n".join(f"{number}. {reason}" for reason, number in reasons.numbers.items())
    return "\n".join((
        INTRO,
        "## Kernels\n", KERNELS, table(render_kernels(columns, remarks)),
        "## Kernel series\n", SERIES,
        table([PROVED, *(row.values() for row in (proofs or {}).values())]),
        "## Capabilities\n", CAPS, table([head, *rows_of(had, "caps")]),
        "## Where kernels differ\n", DIFFER, table([head, *rows_of(had, "notes", differ)]),
        "## Where they agree\n", ALIKE, table(render_alike(had)),
        "## Tests\n", TESTS, tests,
        "## Reasons\n", numbered)) + "\n"


# ---- The page, read again ------------------------------------------------------------------------


def parse_tables(text):
    """{heading: [{head of a column: cell}]} of a page."""
    found, heading, head = {}, None, None
    for line in text.splitlines():
        if line.startswith("#"):
            heading, head = line.lstrip("# "), None
        elif line.startswith("|") and not line.startswith("|-"):
            cells = [cell.strip().replace("\\|", "|")
                     for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if head is None:
                head = cells
            else:
                found.setdefault(heading, []).append(dict(zip(head, cells)))
    return found


def parse_proofs(text):
    """{series: row} of a page."""
    return {row["series"]: row for row in parse_tables(text).get("Kernel series", [])}


def parse_verdict(cell, reasons):
    marks = [word for word in cell.split() if word in (PASS, FAIL)]
    return (marks or [""])[0], tuple(sorted(reasons[word] for word in cell.split()
                                            if word in reasons))


def parse(text):
    """{kernel: Column} of a page."""
    tables = parse_tables(text)
    reasons = dict(re.findall(r"^([0-9]+)[.] (.*)$", text, re.M))
    columns = {row["kernel"]: Column({key: row[key] for key in ABOUT})
               for row in tables.pop("Kernels", [])}
    for heading, rows in tables.items():
        for row in rows:
            for name in row.keys() & columns.keys():
                add_cell(columns[name], heading, row, row[name], reasons)
            if "answer" in row:
                for name in columns.keys() - set(row["not asked on"].split()):
                    columns[name].notes[row[""]] = row["answer"]
    for column in columns.values():
        # A kernel that is not to be had has no column where "not asked on" could name it.
        column.notes = column.notes if column.tests else {}
    return columns


def add_cell(column, heading, row, cell, reasons):
    if not cell:
        return
    if heading == "Capabilities":
        column.caps[row[""]] = cell
    elif heading == "Where kernels differ":
        column.notes[row[""]] = cell
    elif "test" in row:
        column.tests[f"{heading}: {row['test']}"] = parse_verdict(cell, reasons)


# ---- The command ---------------------------------------------------------------------------------


def differences(old, new):
    """Sentences about where a run is not what the page tells."""
    for kind, cells in new.steady().items():
        told = old.steady()[kind]
        for name in dict.fromkeys((*cells, *told)):
            if cells.get(name) != told.get(name):
                yield f"{kind} {name}: the page has {told.get(name)}, the run {cells.get(name)}"


def check_page(text, columns, table_of_kernels):
    """Sentences about where the page is not what render() makes of its own columns."""
    names = [kernel.name for kernel in table_of_kernels]
    for name in names:
        if name not in columns:
            yield f"it has no kernel {name}"
    own = {name: columns[name] for name in names if name in columns}
    if render(own, remarks_of(table_of_kernels), parse_proofs(text)) != text:
        yield "it is not what scripts/lab report writes"


def parse_or_forget(text):
    """The columns of a page; none of one that cannot be read, so that it is written anew."""
    try:
        return parse(text)
    except (KeyError, RuntimeError):
        return {}


def check_proofs(told, hashes, proofs):
    """Sentences about where the rows of the page are not what was, or must be, proved."""
    for name in sorted({*told, *hashes}):
        row, proof = told.get(name), proofs.get(name)
        if name not in hashes:
            yield f"it has a series {name}, which patches/ has not"
        elif not row:
            yield f"it has no series {name}"
        elif row["hash"] != hashes[name]:
            yield f"series {name} has changed since it was proved"
        elif row["no"] != "0":
            yield f"series {name} is refused: {row['no']} answers are no"
        elif proof:
            yield from (f"series {name}: {key}: the page has {row[key]}, the proof {proof[key]}"
                        for key in STEADY if row[key] != proof[key])


def check(text, table_of_kernels, found, hashes, proofs):
    """Says where the page is out of date; 1 if it is for a kernel as it is locked, or a series."""
    columns = parse_or_forget(text)
    said = list(check_page(text, columns, table_of_kernels))
    said += check_proofs(parse_proofs(text), hashes, proofs)
    status = bool(said)
    for name, data in found.items():
        own = list(differences(columns.get(name, Column()), read_run(data)))
        said += [f"{name}: {sentence}" for sentence in own]
        status |= bool(own) and data["locked"]
    for sentence in said:
        print(f"docs/kernels.md: {sentence}")
    print(f"docs/kernels.md: compared with the last runs of {len(found)} kernels")
    return int(status)


def remarks_of(table_of_kernels):
    return {kernel.name: kernel.remark for kernel in table_of_kernels}


def main(only_check):
    table_of_kernels = kernels.read_table()
    hashes = {one.name: one.digest for one in series.read_all()}
    found, proofs = read_runs(), read_proofs(hashes)
    text = PAGE.read_text() if PAGE.exists() else ""
    if only_check:
        return check(text, table_of_kernels, found, hashes, proofs)
    known = parse_or_forget(text) | {name: read_run(data) for name, data in found.items()}
    proved = parse_proofs(text) | proofs
    ordered = {kernel.name: known[kernel.name] for kernel in table_of_kernels
               if kernel.name in known}
    PAGE.write_text(render(ordered, remarks_of(table_of_kernels),
                           {name: proved[name] for name in hashes if name in proved}))
    print(f"{PAGE.relative_to(programs.ROOT)}: {len(found)} kernels of "
          f"{len(ordered)} measured anew")
    return 0
