# SPDX-License-Identifier: MIT
"""The kernel series of patches/: what each holds, and what its source is.

patches/NAME/ has the output of `git format-patch` with its cover letter, and two lists, in which
lines that start with # are remarks:

base    one line: PACKAGE VERSION SHA256, as in kernels.lock; the package whose source the series
        is for. Its version starts with NAME.
series  a patch a line, in their order: FILE [FAULT...]; each FAULT is a known fault of
        gmem-kernel-check that this kernel has before the series and no longer has after it.

A series whose files are not exactly these is an error.
"""
import collections
import email
import email.policy
import re
from pathlib import Path

import archive
import cache
from tables import expect, read_lines

ROOT = Path(__file__).resolve().parents[2] / "patches"
COVER = "0000-cover-letter.patch"

Patch = collections.namedtuple("Patch", "path faults")
# subjects: among them are those of its patches.
Cover = collections.namedtuple("Cover", "author subjects")


def numbers(line):
    """A line of versions, to be sorted by."""
    return tuple(map(int, line.split(".")))


class Series(collections.namedtuple("Series", "name base patches")):
    """base: an archive.Package."""

    @property
    def files(self):
        """All that its patches touch, as they name it."""
        return sorted({name for patch in self.patches
                       for pair in re.findall(r"^diff --git a/(\S+) b/(\S+)$",
                                              patch.path.read_text(errors="replace"), re.M)
                       for name in pair})

    @property
    def digest(self):
        """A hash of all that it is but its cover letter."""
        folder = self.patches[0].path.parent
        return cache.digest([folder / "base", folder / "series",
                             *(patch.path for patch in self.patches)])

    @property
    def cover(self):
        """Its Cover."""
        message = email.message_from_bytes((self.patches[0].path.parent / COVER).read_bytes(),
                                           policy=email.policy.default)
        subjects = re.findall(r"^  (\S.*)$", message.get_content(), re.M)
        return Cover(str(message["From"]), subjects)

    @property
    def faults(self):
        return [fault for patch in self.patches for fault in patch.faults]


def read_base(path, name):
    lines = list(read_lines(path))
    expect(len(lines) == 1, path, "not one line")
    where, line = lines[0]
    words = line.split()
    expect(len(words) == 3, where, "not PACKAGE VERSION SHA256")
    base = archive.Package(*words)
    expect(re.fullmatch(r"src:linux|linux-source-[0-9.]+", base.name), where,
           f"no package of a kernel's source: {base.name}")
    expect(base.version.startswith(name + "."), where, f"{base.version} is not {name}.N")
    expect(re.fullmatch(r"[0-9a-f]{64}", base.sha256), where, f"not a SHA256: {base.sha256}")
    return base


def read_patch(folder, number, line, where):
    file, *faults = line.split()
    expect(re.fullmatch(rf"{number:04}-[\w.-]+\.patch", file), where,
           f"patch {number} is not called {number:04}-...patch: {file}")
    expect((folder / file).is_file(), where, f"there is no {file}")
    for fault in faults:
        expect(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", fault), where,
               f"no name of a fault: {fault}")
    return Patch(folder / file, faults)


def read(folder):
    """The Series of a folder; tables.TableError says what is wrong with it."""
    for name in ("base", "series", COVER):
        expect((folder / name).is_file(), folder, f"{name} is missing")
    patches = [read_patch(folder, number, line, where) for number, (where, line)
               in enumerate(read_lines(folder / "series"), 1)]
    expect(patches, folder, "the series is empty")
    listed = {"base", "series", COVER, *(patch.path.name for patch in patches)}
    for path in sorted(folder.iterdir()):
        expect(path.name in listed, path, "it is not in the series")
    return Series(folder.name, read_base(folder / "base", folder.name), patches)


def read_all(names=()):
    """Some series by their names, or all of them, the newest kernel first."""
    folders = {path.name: path for path in ROOT.iterdir() if path.is_dir()} if ROOT.is_dir() else {}
    for name in names:
        expect(name in folders, name, f"no series of patches/: {' '.join(sorted(folders))}")
    for name in folders:
        expect(re.fullmatch(r"[0-9]+\.[0-9]+", name), ROOT / name, "no line of versions")
    chosen = names or sorted(folders, key=numbers, reverse=True)
    return [read(folders[name]) for name in chosen]
