# SPDX-License-Identifier: MIT
"""The kernel's own selftests that are about guest_memfd: built from its tree, and what they say."""
import collections
import re
import shutil

import compare
import programs
import source
import tree as trees

# Folders below tools/testing/selftests, and the programs of each.
NAMES = {
    "kvm": ["guest_memfd_test", "set_memory_region_test", "pre_fault_memory_test",
            "private_mem_conversions_test", "private_mem_kvm_exits_test",
            "memslot_modification_stress_test"],
    "mm": ["uffd-unit-tests"],
}
# One that takes as much memory as it is given, which is more than a lab machine has.
ARGUMENTS = {"memslot_modification_stress_test": ["-b", "64M"]}
PLACE = "/selftests"
# Of kselftest.h
STATUS = {0: "pass", 4: "skip"}
RESULT = re.compile(r"^(not )?ok \d+ (?:- )?(.*?)\s*(# SKIP.*)?$", re.M)
# What the makefile of mm leaves in the tree.
LEFT = "local_config.*"


def find_sources(place, names):
    """{name: its path without .c, seen from the folder}; some are for one architecture."""
    found = {path.stem: str(path.relative_to(place).with_suffix(""))
             for folder in (place, *place.glob("x86*")) for path in folder.glob("*.c")}
    for name in names:
        if name not in found:
            raise trees.Refused(f"this source has no selftest {name}")
    return {name: found[name] for name in names}


# programs: {name: its file}. warnings: as in trees.Log.
Built = collections.namedtuple("Built", "programs warnings")


def build(tree, flavour, output):
    """The Built selftests of a tree."""
    source.make(tree.folder, flavour, ["headers"])
    headers = tree.folder / source.OBJECTS / "usr/include"
    # A source can be older than what was made of its predecessor.
    shutil.rmtree(output, ignore_errors=True)
    made, warnings = {}, collections.Counter()
    for folder, names in NAMES.items():
        place = tree.folder / "tools/testing/selftests" / folder
        wanted = {name: output / folder / path for name, path in
                  find_sources(place, names).items()}
        (output / folder).mkdir(parents=True, exist_ok=True)
        status, said = trees.call(
            ["make", "-C", place, "-j2", f"OUTPUT={output / folder}", "LDFLAGS=-static",
             f"KHDR_INCLUDES=-isystem {headers}", *wanted.values()], place)
        for path in place.glob(LEFT):
            path.unlink()
        if status != 0:
            found = [line for line in said.splitlines() if re.search(r"error:|\*\*\*", line)]
            raise trees.Refused(f"the selftests do not build: {(found or ['make failed'])[0]}")
        made |= wanted
        warnings += trees.read_log(said, "CC").warnings
    return Built(made, warnings)


def list_programs(made, mark=""):
    """The programs for a lab machine, of what build() made, with a mark at their names."""
    return [programs.Program(name + mark, "selftests", "output",
                             [f"{PLACE}/{name}{mark}", *ARGUMENTS.get(name, [])], {},
                             {f"{PLACE}/{name}{mark}": path}) for name, path in made.items()]


def has_ended(status):
    """Not where init had to end it, as the version of timeout has it, a signal did, or it is none.
    """
    return status not in (124, 126, 127) and not 128 < status < 193


def read(reader, name):
    """{test: verdict} of what a program said; the program itself is compare.PROGRAM."""
    ended = next((ended for ended in reader.ended if ended.name == name), None)
    if not ended or not has_ended(ended.status):
        return {compare.PROGRAM: compare.NO_END}
    text = reader.files.get((name, "output"), b"").decode(errors="replace")
    verdicts = {test: "fail" if wrong else "skip" if skipped else "pass"
                for wrong, test, skipped in RESULT.findall(text)}
    return verdicts | {compare.PROGRAM: STATUS.get(ended.status, f"status {ended.status}")}
