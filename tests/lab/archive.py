# SPDX-License-Identifier: MIT
"""Debian's archive, at the address that this machine's apt uses, through a state of the lab's own.

apt fetches the lists of packages and checks their signatures; a package's hash comes from those
lists. Nothing of the machine's own state is read but apt's configuration, and nothing is changed.
A file once fetched is kept by its hash and needs no network again. Runs as anybody.
"""
import collections
import functools
import hashlib
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import cache

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
APT_HELPER = "/usr/lib/apt/apt-helper"
# apt waits for ever where it cannot write its lists.
APT_SECONDS = 1800
# The kernels are there, and in sid what must be as new as a kernel. What is linked with this
# machine's C library comes from its own suite.
SUITES = ("trixie", "trixie-backports")
SOURCE_SUITES = ("trixie-backports", "sid")

# An entry of a list, or what kernels.lock knows of one: origin (a suite), size and file (where in
# the archive) are then None. The original tarball of the source package NAME is named src:NAME.
Package = collections.namedtuple("Package", "name version sha256 size origin file",
                                 defaults=(None, None, None))

SOURCES = """\
Types: deb
URIs: {uri}
Suites: {suites}
Components: main
Architectures: {architecture}
Targets: Packages
Signed-By: {keyring}

Types: deb-src
URIs: {uri}
Suites: {source_suites}
Components: main
Targets: Sources
Signed-By: {keyring}
"""
# The machine's configuration stays in force for its proxies and credentials. Its hooks would act on
# the machine. No folder of the lab need be open to apt's own user, so root stays root.
CONFIG = """\
APT::Architecture "{architecture}";
#clear APT::Architectures;
APT::Architectures "{architecture}";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Update::Error-Mode "any";
APT::Sandbox::User "root";
Acquire::Retries "3";
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::GzipIndexes "true";
Dir::State "{state}";
Dir::State::lists "{state}/lists";
Dir::State::status "{state}/status";
Dir::Cache "{state}";
Dir::Cache::archives "{state}/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{state}/sources";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
"""


class ArchiveError(Exception):
    """The archive could not be used: what apt said."""


class Gone(Exception):
    """The archive works and does not have the file."""


def call(*command):
    """What an apt program prints; ArchiveError with its errors if it fails."""
    return call_for_bytes(*command).decode(errors="replace")


def call_for_bytes(*command):
    # One that outlived a killed run would still write where the next run does.
    try:
        done = subprocess.run([*cache.DIE_TOO, *command], check=False,
                              stdin=subprocess.DEVNULL, capture_output=True,
                              env=os.environ | {"LC_ALL": "C"}, timeout=APT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ArchiveError(f"{command[0]} did not end within {APT_SECONDS} s: is the disk full?"
                           ) from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace")
        # The first error is the cause of the others.
        match = re.search(r"^E: (.*)", said, re.M)
        raise ArchiveError(match[1] if match else said.strip() or
                           f"{command[0]} ended with {done.returncode}")
    return done.stdout


def sha256_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def codename():
    match = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.M)
    return match[1] if match else "stable"


def is_release(suite):
    """Whether a suite is a whole release, not one of its additions."""
    return re.fullmatch(r"\w+", suite) is not None


@functools.cache
def machine_archive():
    """The address of Debian's main archive, and the suite that this machine takes from it."""
    listed = call("apt-get", "indextargets", "--format",
                  "$(REPO_URI) $(RELEASE) $(ORIGIN) $(LABEL) $(COMPONENT)", "Created-By: Packages")
    found = [line.split() for line in listed.splitlines()]
    found = [words[:2] for words in found if words[2:] == ["Debian", "Debian", "main"]]
    if not found:
        # Before its first update, apt knows its targets by their addresses only.
        printed = call("apt-get", "update", "--print-uris")
        known = (codename(), "stable", "testing", "unstable", "sid")
        found = [pair for pair in re.findall(r"^'(\S+/)dists/([^'/]+)/main/binary-", printed, re.M)
                 if pair[1] in known]
    for uri, suite in found:
        if is_release(suite):
            return uri, suite
    raise ArchiveError("apt of this machine is not configured for Debian's archive")


def own_suite():
    return machine_archive()[1]


def compare(left, right):
    """Debian's order of versions."""
    def holds(relation):
        command = ["dpkg", "--compare-versions", left.version, relation, right.version]
        return subprocess.run(command, check=False).returncode == 0

    if left.version == right.version:
        return 0
    return -1 if holds("lt") else 1


def newest_first(packages):
    """Among equal versions by name, so that it is always the same one that comes first."""
    named = sorted(packages, key=lambda package: package.name)
    return sorted(named, key=functools.cmp_to_key(compare), reverse=True)


def field(stanza, name):
    match = re.search(rf"^{name}: (.*)$", stanza, re.M)
    return match[1] if match else None


def read_binary(stanza, suite):
    return Package(field(stanza, "Package"), field(stanza, "Version"), field(stanza, "SHA256"),
                   int(field(stanza, "Size")), suite, field(stanza, "Filename"))


def read_source(stanza, suite):
    """The original tarball of a source package, None if it has none."""
    sums = stanza.partition("\nChecksums-Sha256:")[2]
    match = re.search(r"^ ([0-9a-f]{64}) (\d+) (\S+\.orig\.tar\.\w+)$", sums, re.M)
    if not match:
        return None
    return Package("src:" + field(stanza, "Package"), field(stanza, "Version"), match[1],
                   int(match[2]), suite, f"{field(stanza, 'Directory')}/{match[3]}")


def file_in(place):
    """The one file of a package's entry in the cache."""
    return next(place.iterdir())


def is_whole(place, package):
    files = list(place.iterdir())
    return len(files) == 1 and sha256_of(files[0]) == package.sha256


def drop_damaged(package, say):
    """Takes a file that is no longer what was fetched out of the cache."""
    place = cache.find("package", [package.sha256])
    if not place.is_dir() or is_whole(place, package):
        return
    with cache.lock(place.with_suffix(".lock")):
        # Another run may just have put the right one there.
        if place.is_dir() and not is_whole(place, package):
            say(f"{package.name}: the file in the cache is damaged")
            shutil.rmtree(place)


class Archive:
    """What the archive has for one architecture. Use of(): a process needs no two of one kind."""

    def __init__(self, architecture):
        self.architecture = architecture
        self.state = cache.root() / "apt" / architecture
        self.config = self.state / "apt.conf"
        self.updated = False
        self.stanzas = None
        self.lock = threading.RLock()

    # ---- The lists ----

    def write_state(self):
        for name in ("lists/partial", "archives/partial", "sources"):
            (self.state / name).mkdir(parents=True, exist_ok=True)
        uri, suite = machine_archive()
        values = {"architecture": self.architecture, "state": self.state, "keyring": KEYRING,
                  "uri": uri, "suites": " ".join(dict.fromkeys((suite, *SUITES))),
                  "source_suites": " ".join(SOURCE_SUITES)}
        (self.state / "status").touch()
        (self.state / "sources/lab.sources").write_text(SOURCES.format(**values))
        self.config.write_text(CONFIG.format(**values))

    def list_files(self):
        """The lists at hand: (kind, suite, file)."""
        printed = call("apt-get", "-c", str(self.config), "indextargets", "--format",
                       "$(CREATED_BY) $(RELEASE) $(FILENAME)")
        return [tuple(line.split(" ", 2)) for line in printed.splitlines()]

    def update(self, say):
        """Fetches the lists, once a process. Old ones serve where the archive cannot be reached."""
        if self.updated:
            return
        with cache.lock(self.state.with_suffix(".lock")):
            self.write_state()
            say(f"reading the package lists, {self.architecture}")
            try:
                call("apt-get", "-c", str(self.config), "-qq", "update")
            except ArchiveError as error:
                if not self.list_files():
                    raise
                say(f"the package lists at hand are used, since they could not be renewed: {error}")
            self.stanzas = self.read_lists()
        self.updated = True

    def read_lists(self):
        """{name: [(kind, suite, stanza)]} of all lists; a source package is named src:NAME.

        Lists are long: the stanzas stay bytes until somebody asks for one.
        """
        found = {}
        for kind, suite, file in self.list_files():
            data = call_for_bytes(APT_HELPER, "-c", str(self.config), "cat-file", file)
            for match in re.finditer(rb"^Package: (\S+)\n.*?\n(?:\n|$)", data, re.M | re.S):
                name = match[1].decode() if kind == "Packages" else "src:" + match[1].decode()
                found.setdefault(name, []).append((kind, suite, match[0]))
        return found

    def find(self, pattern, suite=None, say=print):
        """The packages whose whole name matches a regular expression, the newest version first.

        suite: the only one to look in. That a list has a package does not mean that the archive has
        its file: see fetch(). The original tarball of the source package NAME is src:NAME.
        """
        with self.lock:
            self.update(say)
        readers = {"Packages": read_binary, "Sources": read_source}
        found = {}
        for name, entries in self.stanzas.items():
            if not re.fullmatch(pattern, name):
                continue
            for kind, origin, stanza in entries:
                if suite not in (None, origin):
                    continue
                package = readers[kind](stanza.decode(errors="replace"), origin)
                if package:
                    # Suites share files, and so do the revisions of a source package.
                    found.setdefault(package.sha256, package)
        return newest_first(found.values())

    # ---- The files ----

    def fetch(self, package, say=print):
        """The file of a package, checked against its hash; Gone if the archive has none."""
        drop_damaged(package, say)
        return file_in(cache.entry("package", [package.sha256],
                                   lambda folder: self.download(package, folder, say)))

    def locate(self, package, say):
        """The list's entry for a package of which only name, version and hash are known."""
        found = [entry for entry in self.find(re.escape(package.name), say=say)
                 if entry.version == package.version]
        for entry in found:
            if entry.sha256 == package.sha256:
                return entry
        if found:
            raise ArchiveError(f"{package.name} {package.version} has another hash in the archive's"
                               " lists")
        raise Gone(f"{package.name} {package.version} is not in the archive's lists")

    def download(self, package, folder, say):
        if not package.file:
            package = self.locate(package, say)
        say(f"downloading {package.name} {package.version}, {max(1, package.size // 1000000)} MB")
        target = folder / Path(package.file).name
        try:
            call(APT_HELPER, "-c", str(self.config), "-qq", "download-file",
                 machine_archive()[0] + package.file, str(target), "SHA256:" + package.sha256)
        except ArchiveError as error:
            if re.search(r"\s404\s|File not found", str(error)):
                raise Gone(f"{package.name} {package.version} is in the archive's lists, but its"
                           " file is not in the archive") from error
            raise
        if sha256_of(target) != package.sha256:
            raise ArchiveError(f"{package.name} {package.version}: what came has another hash")


@functools.cache
def of(architecture):
    """The Archive of an architecture: amd64 or arm64."""
    return Archive(architecture)
