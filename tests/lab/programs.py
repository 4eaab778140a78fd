# SPDX-License-Identifier: MIT
"""The programs that a lab machine runs: those of the build's tests that look at a kernel."""
import collections
import json
import shlex
import shutil
import subprocess
from pathlib import Path

import machine

ROOT = Path(__file__).resolve().parents[2]
# What a kernel is known by comes first. The kernel's own tests come last: they look for known
# faults that may stop the machine.
GROUPS = ("probe", "examples", "kvm", "differ", "kernel")
TOOL = "/build/tools/gmem"
# Emulated machines are slow: fewer steps of the group differ than a host makes.
STEPS = {"GMEM_TEST_STEPS": "3000"}
# Tests of these groups that need a compiler.
BUILDERS = ("differ-plant",)
# The groups that no other kernel would change.
HOST_ONLY = ("unit", "fake", "fuzz", "inject", "trace", "tool", "api", "lint", "install",
             "thread", "valgrind", "lab")
OPTIONS = ["--buildtype=debugoptimized", "-Dwerror=true", "-Ddefault_library=static",
           "--prefer-static", "-Dc_link_args=-static", "-Dtests=enabled", "-Ddrawings=disabled"]

# kind: "tests" leave records, of "output" it is kept what it prints. files: {guest path: path}.
Program = collections.namedtuple("Program", "name group kind command environment files")


class BuildError(Exception):
    """What ninja or meson said."""


def call(command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(map(str, command))}\n{done.stdout[-6000:]}")


def build(arch, cross):
    """The folder of the static build for an architecture, brought up to date.

    cross: files for meson where the architecture is not this machine's.
    """
    folder = ROOT / f"build-lab-{arch}"
    files = [option for file in cross for option in ("--cross-file", str(file))]
    setup = ["meson", "setup", str(folder), str(ROOT), *OPTIONS, *files]
    # The cross file's place changes with what is in the cache.
    stamp = folder / "lab-setup"
    if not stamp.exists() or stamp.read_text() != shlex.join(setup):
        shutil.rmtree(folder, ignore_errors=True)
        call(setup)
        stamp.write_text(shlex.join(setup))
    # Meson's lists may be older than its files. Most of a build is no use to a machine.
    call(["ninja", "-C", str(folder), "build.ninja"])
    call(["ninja", "-C", str(folder), *sorted(list_targets(folder))])
    return folder


def read_tests(folder):
    """Meson's tests that look at a kernel."""
    tests = json.loads((folder / "meson-info/intro-tests.json").read_text())
    return [test for test in tests if group_of(test) in GROUPS and test["protocol"] == "tap"
            and test["name"] not in BUILDERS]


def read_benches(folder):
    """Meson's benchmarks: the programs that measure."""
    return json.loads((folder / "meson-info/intro-benchmarks.json").read_text())


def group_of(test):
    return test["suite"][0].split(":")[-1]


def list_targets(folder):
    """What ninja must make, relative to the folder."""
    targets = json.loads((folder / "meson-info/intro-targets.json").read_text())
    made = {Path(file) for target in targets for file in target["filename"]}
    words = {folder / word for test in read_tests(folder) + read_benches(folder)
             for word in test["cmd"]}
    words.add(folder / TOOL.removeprefix("/build/"))
    return {str(path.relative_to(folder)) for path in words & made}


def guest_path(folder, word):
    """The place in the guest, and here, of a file that a test's command names; else None."""
    path = folder / word
    for root, place in ((folder, "/build"), (ROOT, "/source")):
        if path.is_file() and path.is_relative_to(root):
            return f"{place}/{path.relative_to(root)}", path
    return None


def from_test(folder, test):
    """A Program of one of meson's tests. A script finds its helpers beside it as in the tree."""
    files, words = {}, []
    for word in test["cmd"]:
        found = guest_path(folder, word)
        if found:
            files[found[0]] = found[1]
        words.append(found[0] if found else word)
    if words[0].startswith("/source/"):
        for helper in (ROOT / "tests/support").glob("*.sh"):
            files[f"/source/tests/support/{helper.name}"] = helper
        words.insert(0, "sh")
    environment = {name: value for name, value in test["env"].items()
                   if name not in ("GMEM_TEST_GROUP", "LD_LIBRARY_PATH")}
    if group_of(test) == "differ":
        environment |= STEPS
    return Program(test["name"], group_of(test), "tests", words, environment, files)


def list_all(folder):
    found = [from_test(folder, test) for test in read_tests(folder)]
    found.append(Program("probe", "probe", "output", [TOOL, "probe", "--json"], {},
                         {TOOL: folder / TOOL.removeprefix("/build/")}))
    return sorted(found, key=lambda program: (GROUPS.index(program.group), program.name))


def list_benches(folder):
    return [from_test(folder, test)._replace(kind="output") for test in read_benches(folder)]


def select(programs, wanted):
    """Those that are named as PROGRAM, GROUP or PROGRAM:CASE; all without a name.

    Raises KeyError with a name that is none.
    """
    chosen = [] if wanted else programs
    for name in wanted:
        program_name, _, case = name.partition(":")
        found = [program for program in programs if program_name in (program.name, program.group)]
        if not found:
            raise KeyError(name)
        if case:
            found = [program._replace(name=f"{program.name}:{case}",
                                      environment=program.environment | {"CK_RUN_CASE": case})
                     for program in found]
        chosen += found
    # A guest's files and its progress are known by the program's name.
    return list({program.name: program for program in chosen}.values())


def without_faults(programs, faults):
    """The same for a kernel that should be without some known faults."""
    fixed = {"GMEM_TEST_FIXED": " ".join(faults)} if faults else {}
    return [program._replace(environment=program.environment | fixed) for program in programs]


def files(folder, programs):
    """All that the guest needs for some programs."""
    total = {}
    for program in programs:
        total.update(program.files)
    return total


def plan(programs, patience):
    """Shell text for init."""
    lines = []
    for program in programs:
        words = [program.name, program.group, str(machine.PROGRAM_SECONDS * patience), program.kind]
        environment = program.environment | {"CK_TIMEOUT_MULTIPLIER": str(patience)}
        words += ["env", *(f"{name}={value}" for name, value in environment.items())]
        words += program.command
        lines.append("run " + shlex.join(words))
    return "\n".join(lines) + "\n"


def demo(folder, options):
    """The plan and the files of scripts/demo: its two programs, for somebody who watches."""
    hello = shlex.join(["/build/examples/hello-guest", *options])
    plan = f"""
loud=1
set -o pipefail
tell begin demo
{TOOL} probe | cat
echo
{hello} 2>&1 | cat
tell end demo $? 0
"""
    return plan, {name: folder / name.removeprefix("/build/")
                  for name in (TOOL, "/build/examples/hello-guest")}
