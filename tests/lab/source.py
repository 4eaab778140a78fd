# SPDX-License-Identifier: MIT
"""Builds a kernel from its source: a cached kernel folder, with KVM built in and no modules.

A flavour is a list of fragments in configs/. What they do not name is off. A line that ends in
"# optional" names an option that not every version has; any other option that is asked for and is
not in the finished configuration is an error.
"""
import collections
import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import cache

CONFIGS = Path(__file__).resolve().parent / "configs"

# Each flavour's fragments, a later one changing an earlier one, and about how many files make
# speaks of (for the progress only).
FLAVOURS = {
    "private": (["private"], 1790),
    "sanitized": (["private", "sanitized"], 1820),
}

# The commands of a build, and the Debian packages that have them.
COMMANDS = {
    "bc": "bc",
    "bison": "bison",
    "flex": "flex",
    "gcc": "gcc",
    "make": "make",
    "xz": "xz-utils",
}

# Everything that would make two builds of the same source differ. make gets no other variables:
# what a caller's shell has set for its own builds is not meant for this one.
SETTINGS = [
    "ARCH=x86_64",
    "KBUILD_BUILD_TIMESTAMP=2026-01-01",
    "KBUILD_BUILD_VERSION=1",
    "KBUILD_BUILD_USER=libgmem",
    "KBUILD_BUILD_HOST=lab",
]


class BuildError(Exception):
    """A kernel could not be built; says why in full."""


def missing():
    """The Debian packages that a build needs and that this machine does not have."""
    lacking = [package for command, package in COMMANDS.items() if not shutil.which(command)]
    if "gcc" not in lacking:
        header = ["gcc", "-fsyntax-only", "-include", "libelf.h", "-x", "c", "/dev/null"]
        if subprocess.run(header, capture_output=True, check=False).returncode != 0:
            lacking.append("libelf-dev")
    return sorted(lacking)


def options(flavour):
    """What a flavour asks for: {option: (value, whether a kernel may lack it)}."""
    if flavour not in FLAVOURS:
        raise BuildError(f"no flavour {flavour!r}: there are {', '.join(sorted(FLAVOURS))}")
    wanted = {}
    for fragment in FLAVOURS[flavour][0]:
        path = CONFIGS / f"{fragment}.config"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line or line.startswith("#"):
                continue
            option = re.fullmatch(r"(CONFIG_\w+)=(\S+)( +# optional)?", line)
            if not option:
                raise BuildError(f"{path}:{number}: not an option: {line}")
            wanted[option[1]] = (option[2], option[3] is not None)
    return wanted


def unmet(wanted, config):
    """The options that a finished configuration has otherwise than asked for, as text."""
    have = dict(re.findall(r"^(CONFIG_\w+)=(.*)$", config, re.MULTILINE))
    for name, (value, optional) in wanted.items():
        # An option that is off is not named in the configuration, or only in a comment.
        got = have.get(name, "n")
        if got != value and not (optional and got == "n"):
            yield f"{name}: asked for {value}, got {got}"


def unpack(source, tree):
    """Puts the kernel of a .deb (a tarball within a package) or of a tarball into a folder."""
    extract = "tar -xJ --strip-components=1 -C \"$2\""
    if source.suffix == ".deb":
        script = ("dpkg-deb --fsys-tarfile \"$1\" | tar -xO --wildcards "
                  f"'./usr/src/linux-source-*.tar.xz' | {extract}")
    else:
        script = f"{extract} < \"$1\""
    done = subprocess.run(["bash", "-o", "pipefail", "-c", script, "unpack", source, tree],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"cannot unpack {source}:\n{done.stderr}")


@contextlib.contextmanager
def running(command, **how):
    """A process with its output in a pipe; it ends, with all that it started, when left early."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, start_new_session=True, **how) as process:
        try:
            yield process
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def lines(process, seconds):
    """The lines that a process prints, and an empty string whenever none comes for so long."""
    pipe = process.stdout.fileno()
    text = ""
    while True:
        if not select.select([pipe], [], [], seconds)[0]:
            yield ""
            continue
        data = os.read(pipe, 1 << 16)
        *whole, text = (text + data.decode(errors="replace")).split("\n")
        yield from (f"{line}\n" for line in whole)
        if not data:
            yield text
            return


def make(tree, arguments, heard=lambda line: None):
    """Runs make in a kernel tree; heard(line) is called for each line, for "" in a silence."""
    command = ["make", "-C", tree, *SETTINGS, *arguments]
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    last = collections.deque(maxlen=40)
    with running(command, env=environment) as process:
        for line in lines(process, 10):
            last.extend([line] if line else [])
            heard(line)
    if process.returncode != 0:
        raise BuildError(f"make {' '.join(arguments)} failed; its last lines:\n{''.join(last)}")


def configure(tree, flavour, version):
    """Writes a tree's configuration, and makes sure that it is the one asked for."""
    wanted = options(flavour)
    asked = tree / "asked.config"
    asked.write_text("".join(f"{name}={value}\n" for name, (value, _) in wanted.items()),
                     encoding="utf-8")
    make(tree, [version, f"KCONFIG_ALLCONFIG={asked}", "allnoconfig"])
    wrong = list(unmet(wanted, (tree / ".config").read_text(encoding="utf-8")))
    if wrong:
        raise BuildError(f"flavour {flavour} is not to be had from this source:\n"
                         + "\n".join(wrong))


def progress(label, total, say):
    """A heard() for make that tells how far it is, at most each 10 s."""
    start = told = time.monotonic()
    files = 0

    def heard(line):
        nonlocal files, told
        # "  CC      mm/shmem.o": one step of the build
        files += line.startswith("  ")
        now = time.monotonic()
        if now - told >= 10:
            told = now
            say(f"{label}: {files} of about {max(files, total)} files, {now - start:.0f} s")
    return heard


def build(source, flavour, say=print):
    """The kernel folder of a source (a .deb or tarball) and flavour, built if it is not there."""
    wanted = options(flavour)
    if lacking := missing():
        raise BuildError(f"to build a kernel, install {' '.join(lacking)}")
    compiler = "".join(
        subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
        for tool in ("gcc", "ld"))
    name = source.name.removesuffix(".deb").removesuffix(".orig.tar.xz")
    label = f"building {name}, {flavour}"
    version = f"LOCALVERSION=-{flavour}"

    def fill(folder):
        start = time.monotonic()
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            tree = Path(scratch)
            say(f"{label}: unpacking")
            unpack(source, tree)
            configure(tree, flavour, version)
            jobs = len(os.sched_getaffinity(0))
            make(tree, [version, f"-j{jobs}", "bzImage"],
                 progress(label, FLAVOURS[flavour][1], say))
            shutil.copyfile(tree / "arch/x86/boot/bzImage", folder / "vmlinuz")
            shutil.copyfile(tree / ".config", folder / "config")
            shutil.copyfile(tree / "include/config/kernel.release", folder / "release")
        (folder / "modules").mkdir()
        say(f"{label}: done in {time.monotonic() - start:.0f} s")

    inputs = [source, sorted(wanted.items()), compiler, SETTINGS, version]
    return cache.entry("kernel", inputs, fill)
