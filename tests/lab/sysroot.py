# SPDX-License-Identifier: MIT
"""What the lab needs of other architectures, and of newer kernels, without installing it."""
import subprocess
from pathlib import Path

import archive
import cache
import kernel

ROOT = Path(__file__).resolve().parents[2]
TRIPLETS = {"arm64": "aarch64-linux-gnu"}

# For meson, beside scripts/arm64.ini: pkg-config finds this folder's libraries and no others. Its
# name was pkgconfig until meson 1.3.
CROSS = """\
[binaries]
pkg-config = 'pkg-config'
pkgconfig = 'pkg-config'

[properties]
sys_root = '{folder}'
pkg_config_libdir = '{folder}/usr/lib/{triplet}/pkgconfig'
"""


def unpack(file, folder):
    done = subprocess.run(["dpkg-deb", "--extract", str(file), str(folder)], text=True,
                          capture_output=True, check=False)
    if done.returncode != 0:
        raise archive.ArchiveError(f"dpkg-deb could not unpack {file.name}: {done.stderr.strip()}")


def unpacked(name, say, finish=lambda folder, place: None):
    """The folder with the packages of one of kernel.extras() in it.

    finish(folder, place) adds to the folder, whose place will be `place`.
    """
    want = kernel.extras()[name]

    def inputs(packages):
        return [Path(__file__), *(package.sha256 for package in packages)]

    packages = kernel.take(
        want, lambda locked: cache.find("unpacked", inputs(locked)).is_dir(), say).packages
    place = cache.find("unpacked", inputs(packages))

    def make(folder):
        for package in packages:
            unpack(archive.of(want.architecture).fetch(package, say), folder)
        finish(folder, place)

    return cache.entry("unpacked", inputs(packages), make)


def cross_files(arch, say=print):
    """The files for meson's --cross-file for an architecture; none for this machine's own."""
    if arch == "x86-64":
        return []

    def finish(folder, place):
        (folder / "cross.ini").write_text(CROSS.format(folder=place, triplet=TRIPLETS[arch]))

    return [ROOT / f"scripts/{arch}.ini",
            unpacked(f"sysroot-{arch}", say, finish) / "cross.ini"]


def busybox(arch, say=print):
    """A static busybox for an architecture."""
    folder = unpacked(f"busybox-{arch}", say)
    for path in (folder / "usr/bin/busybox", folder / "bin/busybox"):
        if path.exists():
            return path
    raise archive.ArchiveError("busybox-static has no busybox")


def headers(say=print):
    """The folder of the newest kernel's userspace headers."""
    return unpacked("headers", say) / "usr/include"
