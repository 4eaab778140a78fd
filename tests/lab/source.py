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
# Where a tree's objects are. In a folder of the tree itself, no path of an object has the tree's
# own place in it: the objects can move to another tree.
OBJECTS = "objects"
IN_USE = ".in-use"
# What checkpatch.pl knows a tree by: what it reads, and what it only wants to be there.
TREE_FILES = ("COPYING", "CREDITS", "Kbuild", "MAINTAINERS", "Makefile", "README", "include",
              "scripts")
TREE_FOLDERS = ("Documentation", "arch", "drivers", "fs", "init", "ipc", "kernel", "lib")

# fragments: a later one changes an earlier one. files: about how many make speaks of, for the
# progress only. machines: the kinds of machine that show such a kernel, each with options as in the
# table of kernels; the kernel's own selftests take long. no5lvl: see the
# limits in docs/lab.md.
Flavour = collections.namedtuple("Flavour", "arch fragments files machines")
FLAVOURS = {
    "arm64": Flavour("arm64", ["common", "arm64"], 1790, {"": {}}),
    "private": Flavour("x86-64", ["common", "private"], 1790,
                       {"": {"patience": "3"},
                        "shadow": {"append": "kvm_amd.npt=0", "patience": "3"}}),
    "sanitized": Flavour("x86-64", ["common", "private", "sanitized"], 1820,
                         {"": {"patience": "10", "append": "no5lvl"}}),
}
# name: make's. tools: what the names of its compiler and linker begin with.
Target = collections.namedtuple("Target", "name tools image")
TARGETS = {
    "arm64": Target("arm64", "aarch64-linux-gnu-", "arch/arm64/boot/Image"),
    "x86-64": Target("x86_64", "", "arch/x86/boot/bzImage"),
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
    for fragment in FLAVOURS[flavour].fragments:
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


def unpack(source, folder, members=()):
    """Puts the kernel of a .deb (a tarball within a package) or a tarball into a folder.

    members: the only files and folders to unpack, seen from the tree; those that it lacks are left
    out.
    """
    extract = "tar --strip-components=1 -C \"$2\" -x"
    if source.suffix == ".deb":
        script = ("dpkg-deb --fsys-tarfile \"$1\" | tar -xO --wildcards "
                  f"'./usr/src/linux-source-*.tar.xz' | {extract}J \"${{@:3}}\"")
    else:
        script = f"{extract}f \"$1\" \"${{@:3}}\""
    patterns = ["--wildcards", "--no-wildcards-match-slash",
                *(f"*/{member}" for member in members)] if members else []
    done = subprocess.run(["bash", "-o", "pipefail", "-c", script, "unpack", source, folder,
                           *patterns], capture_output=True, text=True, check=False,
                          env=os.environ | {"LC_ALL": "C"})
    lacking = re.sub(r"^tar: (.*: Not found in archive|Exiting with failure .*)\n", "", done.stderr,
                     flags=re.M)
    if done.returncode != 0 and (lacking or not members):
        raise BuildError(f"cannot unpack {source}:\n{done.stderr}")


@contextlib.contextmanager
def tree(source, say):
    """The unpacked tree of a source, for one user at a time, who leaves it as it was.

    It may have .git and objects while it is used. Where a user was killed, it is unpacked anew.
    """
    def fill(folder):
        say(f"unpacking {source.name}")
        unpack(source, folder)

    place = cache.find("tree", [source])
    with cache.lock(place.with_suffix(".use"), lambda: say(f"waiting for {source.name}")):
        if (place / IN_USE).exists():
            cache.drop(place)
        place = cache.entry("tree", [source], fill)
        (place / IN_USE).touch()
        yield place  # who leaves by an exception leaves the mark: it may not be as it was
        for name in (OBJECTS, ".git"):
            shutil.rmtree(place / name, ignore_errors=True)
        (place / IN_USE).unlink()


@contextlib.contextmanager
def excerpt(source, members):
    """As much of a tree as checkpatch.pl takes for one, and some files of it; thrown away."""
    with tempfile.TemporaryDirectory() as scratch:
        unpack(source, scratch, [*TREE_FILES, *members])
        for name in TREE_FOLDERS:
            Path(scratch, name).mkdir(exist_ok=True)
        yield Path(scratch)


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


def target_of(flavour):
    return TARGETS[FLAVOURS[flavour].arch]


def settings(flavour):
    """What make gets for a flavour, besides its goals."""
    target = target_of(flavour)
    cross = [f"CROSS_COMPILE={target.tools}"] if target.tools else []
    return [f"O={OBJECTS}", f"LOCALVERSION=-{flavour}", f"ARCH={target.name}", *cross, *SETTINGS]


def make(tree, flavour, arguments, heard=lambda line: None):
    """Runs make in a kernel tree; heard(line) is called for each line, for "" in a silence."""
    command = [*cache.DIE_TOO, "make", "-C", tree, *settings(flavour), *arguments]
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    last = collections.deque(maxlen=40)
    with running(command, env=environment) as process:
        for line in lines(process, 10):
            last.extend([line] if line else [])
            heard(line)
    if process.returncode != 0:
        raise BuildError(f"make {' '.join(arguments)} failed; its last lines:\n{''.join(last)}")


def configure(tree, flavour):
    """Writes a tree's configuration, and makes sure that it is the one asked for."""
    wanted = options(flavour)
    asked = tree / OBJECTS / "asked.config"
    asked.write_text("".join(f"{name}={value}\n" for name, (value, _) in wanted.items()),
                     encoding="utf-8")
    make(tree, flavour, [f"KCONFIG_ALLCONFIG={asked}", "allnoconfig"])
    wrong = list(unmet(wanted, (tree / OBJECTS / ".config").read_text(encoding="utf-8")))
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


def make_image(tree, flavour, heard):
    """Builds what a tree's objects lack."""
    jobs = len(os.sched_getaffinity(0))
    make(tree, flavour, [f"-j{jobs}", Path(target_of(flavour).image).name], heard)


def copy_kernel(tree, flavour, folder):
    """Puts what a kernel is booted from into its folder."""
    folder.mkdir(exist_ok=True)
    objects = tree / OBJECTS
    shutil.copyfile(objects / target_of(flavour).image, folder / "vmlinuz")
    shutil.copyfile(objects / ".config", folder / "config")
    shutil.copyfile(objects / "include/config/kernel.release", folder / "release")
    (folder / "modules").mkdir(exist_ok=True)


def build(source, flavour, say=print):
    """The kernel folder of a source (a .deb or tarball) and flavour, built if it is not there.

    Its objects are kept: a build of nearly the same source can start from them.
    """
    wanted = options(flavour)
    if lacking := missing():
        raise BuildError(f"to build a kernel, install {' '.join(lacking)}")
    compiler = "".join(
        subprocess.run([target_of(flavour).tools + tool, "--version"], capture_output=True,
                       text=True, check=True).stdout
        for tool in ("gcc", "ld"))
    name = source.name.removesuffix(".deb").removesuffix(".orig.tar.xz")
    label = f"building {name}, {flavour}"

    def fill(folder):
        with tree(source, say) as place:
            start = time.monotonic()
            objects = place / OBJECTS
            objects.mkdir()
            configure(place, flavour)
            make_image(place, flavour, progress(label, FLAVOURS[flavour].files, say))
            copy_kernel(place, flavour, folder)
            for linked in objects.glob("*vmlinux*"):
                linked.unlink()
            objects.rename(folder / OBJECTS)
            say(f"{label}: done in {time.monotonic() - start:.0f} s")

    values = sorted((name, value) for name, (value, _) in wanted.items())
    inputs = [source, values, compiler, settings(flavour)]
    return cache.entry("kernel", inputs, fill)
