# SPDX-License-Identifier: MIT
"""The lab's kernels: the table of them, the lock file, and the files that each is booted from.

kernels.lock holds what was taken last, one package a line: NAME PACKAGE VERSION SHA256. NAME is a
kernel of the table or one of the other things that the lab takes from the archive (extras()).
"""
import collections
import lzma
import re
import subprocess
import tarfile
from pathlib import Path

import archive
import cache
import series
import source
import tree
from tables import expect, read_lines

HERE = Path(__file__).parent
TABLE = HERE / "kernels"
LOCK = HERE / "kernels.lock"

ARCHITECTURES = {"x86-64": "amd64", "arm64": "arm64"}  # the archive's names for them
SOURCES = ("package", "source", "tarball", "patched", "none")
# They have no line in the lock file: a series names its source itself.
UNLOCKED = ("patched", "none")
WHENS = ("always", "full", "never")
OPTIONS = {"patience": r"[1-9][0-9]*", "append": r"\S+"}
# Of those that KVM needs, in the order to load them. Where KVM is built in, there are none.
MODULES = ("irqbypass", "ccp", "kvm", "kvm-amd")
# The last line whose linux-image packages hold anything.
LAST_WHOLE_IMAGE = (6, 18)

LOCK_HEAD = """\
# SPDX-License-Identifier: MIT
# What the lab takes from the archive, written by `scripts/lab refresh`: NAME PACKAGE VERSION SHA256
"""

# patterns: regular expressions of package names, one for each package. line: what the versions
# start with. own: of this machine's own suite only, since it is linked with this machine's C
# library; else of any suite, and all packages of the same version.
Wanted = collections.namedtuple("Wanted", "name architecture patterns line own",
                                defaults=("", False))
Choice = collections.namedtuple("Choice", "packages locked")


class Missing(Exception):
    """The archive does not have what was looked for."""


class Kernel(collections.namedtuple("Kernel",
                                    "name arch line source flavour when options remark")):
    """A line of the table. options: {name: value}."""

    @property
    def patience(self):
        return int(self.options.get("patience", 1))

    @property
    def series(self):
        """What is on a patched kernel."""
        return series.read_all([self.line])[0] if self.source == "patched" else None


# ---- The table and the lock file -----------------------------------------------------------------


def read_options(text, where):
    found = {}
    for option in text.split(",") if text != "-" else ():
        name, _, value = option.partition("=")
        expect(name in OPTIONS and re.fullmatch(OPTIONS[name], value), where,
               f"no such option: {option}")
        expect(name not in found, where, f"{name} is there twice")
        found[name] = value
    return found


def read_kernel(line, where):
    words = line.split(None, 7)
    expect(len(words) >= 7, where, "fewer than seven columns")
    kernel = Kernel(*words[:6], read_options(words[6], where), "".join(words[7:]))
    expect(kernel.arch in ARCHITECTURES, where, f"no such architecture: {kernel.arch}")
    expect(re.fullmatch(r"[0-9]+\.[0-9]+", kernel.line), where, f"no line of versions: "
           f"{kernel.line}")
    expect(re.fullmatch(re.escape(kernel.line) + r"(-[a-z0-9]+)*", kernel.name), where,
           f"the name {kernel.name} is not the line with words after it")
    expect(kernel.source in SOURCES, where, f"no such origin: {kernel.source}")
    expect(kernel.when in WHENS, where, f"no such time: {kernel.when}")
    expect((kernel.source == "none") == (kernel.when == "never"), where,
           "none and never belong together")
    expect(kernel.source != "none" or kernel.remark, where, "the reason is missing")
    if kernel.source in ("source", "tarball", "patched"):
        flavour = source.FLAVOURS.get(kernel.flavour)
        expect(flavour, where, f"no flavour of source.py: {kernel.flavour}")
        expect(flavour.arch == kernel.arch, where, f"{kernel.flavour} is for {flavour.arch}")
    return kernel


def read_table(path=TABLE):
    """The kernels, in the table's order."""
    table = {}
    for where, line in read_lines(path):
        kernel = read_kernel(line, where)
        expect(kernel.name not in table, where, f"{kernel.name} is there twice")
        table[kernel.name] = kernel
    return list(table.values())


def read_lock(path=None):
    """{name: [Package]} of the lock file; nothing without one."""
    path = path or LOCK
    found = {}
    for where, line in read_lines(path) if path.exists() else ():
        words = line.split()
        expect(len(words) == 4, where, "not four columns")
        name, package, version, sha256 = words
        expect(re.fullmatch(r"[0-9a-f]{64}", sha256), where, f"not a SHA256: {sha256}")
        own = found.setdefault(name, [])
        expect(package not in [other.name for other in own], where, f"{package} is there twice")
        own.append(archive.Package(package, version, sha256))
    return found


def write_lock(locked):
    """Replaces the lock file in one step. locked: {name: [Package]}."""
    rows = sorted((name, package.name, package.version, package.sha256)
                  for name, packages in locked.items() for package in packages)
    new = LOCK.with_suffix(".new")
    new.write_text(LOCK_HEAD + "".join(" ".join(row) + "\n" for row in rows))
    new.replace(LOCK)


# ---- From names to packages ----------------------------------------------------------------------


def wanted(kernel):
    """The packages of a kernel that comes from the archive."""
    line = re.escape(kernel.line)
    tail = rf"{line}\.[^-]+-{re.escape(kernel.flavour)}"
    if kernel.source == "tarball":
        patterns = ["src:linux"]
    elif kernel.source == "source":
        patterns = [f"linux-source-{line}"]
    elif series.numbers(kernel.line) <= LAST_WHOLE_IMAGE:
        patterns = [f"linux-image-{tail}"]
    elif kernel.arch == "arm64":
        patterns = [f"linux-binary-(?:unsigned-)?{tail}"]  # KVM is no module there
    else:
        patterns = [f"linux-binary-(?:unsigned-)?{tail}", f"linux-modules-{tail}"]
    return Wanted(kernel.name, ARCHITECTURES[kernel.arch], patterns, kernel.line + ".")


def extras():
    """What the lab takes from the archive besides kernels, by its name in the lock file."""
    newest = max((kernel.line for kernel in read_table()), key=series.numbers)
    found = [
        Wanted("busybox-arm64", "arm64", ["busybox-static"], own=True),
        Wanted("busybox-x86-64", "amd64", ["busybox-static"], own=True),
        Wanted("headers", "amd64", ["linux-libc-dev"], newest + "."),
        Wanted("sparse", "amd64", ["src:sparse"]),
        Wanted("sysroot-arm64", "arm64", ["check", "libsubunit-dev", "liburing-dev"], own=True),
    ]
    return {want.name: want for want in found}


def candidates(want, say):
    """Packages to take, the newest first."""
    suite = archive.own_suite() if want.own else None
    lists = [[package for package in archive.of(want.architecture).find(pattern, suite, say)
              if package.version.startswith(want.line)] for pattern in want.patterns]
    if want.own:
        # A release holds one version of each.
        if all(lists):
            yield [packages[0] for packages in lists]
        return
    for first in lists[0]:
        others = [[package for package in packages if package.version == first.version]
                  for packages in lists[1:]]
        if all(others):
            yield [first, *(packages[0] for packages in others)]


def describe(want):
    """What was looked for, in words."""
    names = [pattern.replace("(?:unsigned-)?", "").replace(r"\.[^-]+", ".N") for pattern in
             want.patterns]
    line = f" {want.line}N" if want.line else ""
    return " with ".join(names).replace("\\", "") + f"{line} for {want.architecture}"


def take_newest(want, say):
    """The newest packages whose files the archive has too, now in the cache."""
    gone = []
    for packages in candidates(want, say):
        try:
            for package in packages:
                archive.of(want.architecture).fetch(package, say)
            return packages
        except archive.Gone as reason:
            gone.append(str(reason))
    raise Missing(f"the archive has no {describe(want)}" +
                  (f": {gone[0]}" if gone else "") +
                  (f", nor has it {len(gone) - 1} older ones" if len(gone) > 1 else ""))


def take(want, is_made=lambda packages: False, say=print):
    """The locked packages, or the newest. All are in the cache, if is_made() did not answer."""
    locked = read_lock().get(want.name)
    why = f"{LOCK.name} has no {want.name}"
    if locked:
        try:
            if not is_made(locked):
                for package in locked:
                    archive.of(want.architecture).fetch(package, say)
            return Choice(locked, True)
        except archive.Gone as gone:
            why = str(gone)
    packages = take_newest(want, say)
    say(f"{want.name}: unlocked, {packages[0].version} is taken: {why}")
    return Choice(packages, False)


def refresh(table, say=print):
    """Locks the newest packages of all kernels, and of what else the lab takes."""
    locked = {}
    wants = [wanted(kernel) for kernel in table if kernel.source not in UNLOCKED]
    for want in [*wants, *extras().values()]:
        try:
            locked[want.name] = take_newest(want, say)
            say(f"{want.name}: {locked[want.name][0].version}")
        except Missing as missing:
            say(f"{want.name}: {missing}")
    write_lock(locked)


# ---- From packages to a kernel's folder ----------------------------------------------------------


def members(package_file, pattern):
    """(match, data) of the files of a binary package whose path, without "./", matches whole."""
    command = ["dpkg-deb", "--fsys-tarfile", str(package_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as unpacker:
        with tarfile.open(fileobj=unpacker.stdout, mode="r|") as tar:
            for member in tar:
                match = re.fullmatch(pattern, member.name.removeprefix("./"))
                if match and member.isfile():
                    yield match, tar.extractfile(member)
        # What follows the last member, so that the unpacker ends well.
        while unpacker.stdout.read(1 << 16):
            pass
    if unpacker.returncode != 0:
        raise archive.ArchiveError(f"dpkg-deb could not unpack {package_file.name}")


def plain_module(name, data):
    return lzma.decompress(data) if name.endswith(".xz") else data


def unpack_kernel(kernel, files, folder):
    """Makes a kernel's folder of its packages' files."""
    (folder / "modules").mkdir()
    image = r"boot/vmlinuz-(?P<boot>.+)|usr/lib/modules/(?P<usr>[^/]+)/vmlinuz(\.unsigned)?"
    names = "|".join(MODULES)
    module = rf".*/(?P<module>{names})\.(?P<form>ko(\.xz)?)"
    for file in files:
        for match, data in members(file, f"{image}|{module}"):
            release = match["boot"] or match["usr"]
            if release:
                (folder / "vmlinuz").write_bytes(data.read())
                (folder / "release").write_text(release + "\n")
            else:
                place = MODULES.index(match["module"]) + 1
                (folder / "modules" / f"{place:02}-{match['module']}.ko").write_bytes(
                    plain_module(match["form"], data.read()))
    found = [path.stem[3:] for path in (folder / "modules").iterdir()]
    lacking = {"kvm", "kvm-amd"} - set(found) if kernel.arch == "x86-64" else None
    if not (folder / "release").exists() or lacking:
        raise archive.ArchiveError(f"{kernel.name}: its packages lack a kernel image or KVM")


def inputs(packages):
    """Of the cache's entry that packages are unpacked to."""
    return [Path(__file__), *(package.sha256 for package in packages)]


def is_unpacked(packages):
    return cache.find("kernel", inputs(packages)).is_dir()


def resolve(kernel, say=print):
    """A Choice: the packages of a kernel on this machine, locked or not; Missing with the reason.

    The packages are in the cache, or what they are unpacked to is.
    """
    if kernel.source == "none":
        raise Missing(kernel.remark)
    if kernel.source == "patched":
        base = kernel.series.base
        try:
            archive.of(ARCHITECTURES[kernel.arch]).fetch(base, say)
        except archive.Gone as gone:
            raise Missing(str(gone)) from gone
        return Choice([base], True)
    return take(wanted(kernel), is_unpacked, say)


def folder(kernel, choice, say=print):
    """The folder that a kernel is booted from, made of what resolve() chose.

    vmlinuz, release (what `uname -r` says) and modules/NN-name.ko in the order to load them.
    """
    packages = choice.packages
    of = archive.of(ARCHITECTURES[kernel.arch])
    if kernel.source == "patched":
        return tree.build(of.fetch(packages[0], say), kernel.flavour, kernel.series, say)
    if kernel.source != "package":
        return source.build(of.fetch(packages[0], say), kernel.flavour, say)
    return cache.entry("kernel", inputs(packages), lambda place: unpack_kernel(
        kernel, [of.fetch(package, say) for package in packages], place))
