# SPDX-License-Identifier: MIT
"""What a lab machine's run means: a record for each test, and one for whatever else went wrong."""
import collections
import json
import re

import console

Record = collections.namedtuple("Record", "program test verdict reason")
VERDICTS = ("pass", "fail", "skip", "note")
# What the kernel is known by: the probe's own exit status for a KVM that it cannot use.
UNUSABLE = 77
# The program's name in records of the machine as a whole.
MACHINE = "(machine)"
# The known fault of gmem-kernel-check(1) that kernels warn of, once a boot and not in each, where
# vCPUs run while slots come. kernel-check brings it about.
KNOWN_WARNING = ("access-meets-new-slot", ("kvm-race", "kernel-check"),
                 re.compile(r"WARNING: .*\barch/x86/kvm/mmu/\S+ (at )?"
                            r"(mmu_set_spte|mmu_spte_set|mark_mmio_spte|kvm_tdp_mmu_map)\+"))


def read_record(line):
    fields = [console.printable(field) for field in line.split("\t")]
    if len(fields) == 5 and fields[3] in VERDICTS:
        return Record(*fields[1:])
    return Record("", "(record)", "fail", f"this is no record: {console.printable(line)[:80]!r}")


def read_records(data):
    """Records of harness.h; a line without their form is a failure."""
    return [read_record(line) for line in data.decode(errors="replace").split("\n") if line]


def last_line(data):
    lines = [line for line in data.decode(errors="replace").splitlines() if line.strip()]
    return console.printable(lines[-1]) if lines else "it printed nothing"


def judge_tests(program, ended, files):
    records = [record._replace(program=program.name)
               for record in read_records(files.get("records", b""))]
    said = (f"status {ended.status} after {ended.seconds} s: "
            + last_line(files.get("errors", b"") or files.get("output", b"")))
    if not any(record.verdict != "note" for record in records):
        yield Record(program.name, "(program)", "fail",
                     f"it tested nothing, {said}")
    elif ended.status != 0 and all(record.verdict != "fail" for record in records):
        yield Record(program.name, "(program)", "fail", said)
    yield from records


def judge_probe(program, ended, files):
    """Status 0 or 77, with a report that agrees."""
    try:
        report = json.loads(files.get("output", b""))
        sound = ended.status == (0 if report["usable"] else UNUSABLE)
    except (ValueError, KeyError, TypeError):
        sound = False
    if sound:
        yield Record(program.name, "report", "pass", "")
    else:
        yield Record(program.name, "report", "fail", f"status {ended.status}, or no such report")


def judge_program(program, reader):
    ended = next((ended for ended in reader.ended if ended.name == program.name), None)
    if not ended:
        how = ("it did not run" if program.name not in reader.begun else
               "its end did not come" if reader.done else "the machine ended in it")
        yield Record(program.name, "(program)", "fail", how)
        return
    files = {name: data for (owner, name), data in reader.files.items() if owner == program.name}
    judge = judge_tests if program.kind == "tests" else judge_probe
    yield from judge(program, ended, files)


def message(line):
    """A line of the kernel without its time."""
    return line.split("] ", 1)[-1].rstrip()


def later_faults(reader):
    """Faults in the kernel's log that its console did not show: it was kept quiet for moments."""
    told = {message(line) for fault in reader.faults for line in fault.text}
    again = console.Console(lambda event, value: None)
    for line in reader.files.get((None, "dmesg"), b"").decode(errors="replace").splitlines():
        if message(console.printable(line)) not in told:
            again.feed(line)
    return again.faults


def is_known(fault, fixed):
    """Whether this kernel's fault is known, and is told without being a failure.

    fixed: the known faults that the kernel should be without.
    """
    name, programs, warning = KNOWN_WARNING
    program = (fault.program or "").partition(":")[0]
    return (name not in fixed and program in (*programs, "") and  # the log has no programs
            any(warning.search(line) for line in fault.text[:3]))


def judge_machine(outcome, reader, fixed=()):
    """Failures of the machine as a whole. fixed: as for is_known()."""
    if outcome.problem:
        yield Record(MACHINE, "run", "fail", outcome.problem)
    if reader.release is None:
        yield Record(MACHINE, "boot", "fail", "the kernel did not start the first program")
    elif not reader.done:
        yield Record(MACHINE, "end", "fail", f"it ended early, QEMU's status {outcome.status}")
    elif (None, "dmesg") not in reader.files:
        yield Record(MACHINE, "log", "fail", "the kernel's log did not come")
    for text in reader.said:
        yield Record(MACHINE, "start", "fail", text)
    for name in reader.damaged:
        yield Record(MACHINE, "console", "fail", f"{name} came damaged")
    for fault in reader.faults + later_faults(reader):
        if is_known(fault, fixed):
            continue
        yield Record(MACHINE, "kernel", "fail",
                     f"in {fault.program or 'no program'}: {fault.text[0].strip()}")


def judge(outcome, reader, programs, fixed=()):
    """The Records of a run. fixed: as for is_known()."""
    records = list(judge_machine(outcome, reader, fixed))
    for program in programs:
        records += judge_program(program, reader)
    return records


def count(records):
    return collections.Counter(record.verdict for record in records)


def get_probe(reader):
    """The report of gmem probe --json, or None."""
    try:
        report = json.loads(reader.files[("probe", "output")])
    except (KeyError, ValueError):
        return None
    return report if isinstance(report, dict) else None
