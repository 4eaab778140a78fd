# SPDX-License-Identifier: MIT
"""A kernel's source with patches on it, and what is asked of each of them."""
import collections
import os
import re
import shutil
import subprocess

import cache
import source

# None of the machine's own settings.
ENVIRONMENT = {"LC_ALL": "C", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
               "GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "user.name",
               "GIT_CONFIG_VALUE_0": "libgmem", "GIT_CONFIG_KEY_1": "user.email",
               "GIT_CONFIG_VALUE_1": "libgmem@localhost"}
CLEAN = re.compile(r"^total: 0 errors, 0 warnings, 0 checks, ", re.M)
# "virt/kvm/guest_memfd.c:12:3: warning: ...", of the compiler or of sparse.
WARNING = re.compile(r"(?:\.\./)*(\S+?):(?:\d+:)+ (?:warning|error): (.*)")
# Of any tool of a build: the compiler, objtool, modpost, the linker.
WARNS = re.compile(r"\bwarning: ", re.I)
# A line of make: "  CHECK   ../virt/kvm/guest_memfd.c"
STEP = re.compile(r"  (CC|CHECK)\s+(\S+)\s*$")


class Refused(Exception):
    """What is wrong with a patch, in one sentence."""


def environment(**more):
    return {"PATH": os.environ["PATH"], **ENVIRONMENT, **more}


def call(command, folder, env=None):
    """(status, what it says) of a command."""
    done = subprocess.run([*cache.DIE_TOO, *command], cwd=folder, env=env or environment(),
                          stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout.decode(errors="replace")


def first_line(text):
    return next((line.strip() for line in text.splitlines() if line.strip()), "it said nothing")


# warnings: {"file: text": how often}. named: the files of its steps, without their suffix.
Log = collections.namedtuple("Log", "warnings named")


def stem(path):
    """A path of make's, seen from the tree and without its suffix."""
    return os.path.splitext(re.sub(r"^(\.\./)+", "", os.path.normpath(path)))[0]


def read_log(text, step):
    """The Log of a make, of which the steps of that name count."""
    warnings, named = collections.Counter(), set()
    for line in text.splitlines():
        if match := WARNING.match(line):
            warnings[f"{os.path.normpath(match[1])}: {match[2]}"] += 1
        elif (match := STEP.match(line)) and match[1] == step:
            named.add(stem(match[2]))
    return Log(warnings, named)


class Tree:
    """A source's folder in use by a series, whose commits come after `base`.

    Its repository has only the files that the series touches.
    """

    def __init__(self, folder, files):
        self.folder = folder
        self.git("init", "--quiet", "--initial-branch=base")
        there = [file for file in files if (folder / file).exists()]
        if there:
            self.git("add", "--force", "--", *there)
        self.git("commit", "--quiet", "--allow-empty", "--message=base")
        self.base = self.git("rev-parse", "HEAD").strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.checkout(self.base)

    def git(self, *words):
        status, said = call(["git", *words], self.folder)
        if status != 0:
            raise Refused(f"git {words[0]}: {first_line(said)}")
        return said

    def checkout(self, commit):
        self.git("checkout", "--quiet", "--force", "--detach", commit)

    # ---- A patch as text ----

    def apply(self, path):
        """Puts a patch on the tree; its commit."""
        try:
            self.git("am", "--quiet", str(path))
        except Refused:
            said = call(["git", "apply", "--check", str(path)], self.folder)[1]
            call(["git", "am", "--abort"], self.folder)
            raise Refused(f"it does not apply: {first_line(said)}") from None
        return self.git("rev-parse", "HEAD").strip()

    def check_form(self, commit, cover):
        """Whoever writes the cover letter wrote it and signs it off, and nobody else is named."""
        author, message = self.git("show", "-s", "--format=%an <%ae>%x00%B", commit).split("\0")
        signed = re.findall(r"^([a-z]+(?:-[a-z]+)*-by): (.*)$", message, re.M | re.I)
        if author != cover.author:
            raise Refused(f"it is from {author}, its cover letter from {cover.author}")
        if signed != [("Signed-off-by", author)]:
            names = ", ".join(f"{tag}: {who}" for tag, who in signed) or "nobody"
            raise Refused(f"it is signed by {names}, not once by its author {author}")
        subject = message.split("\n\n")[0].replace("\n", " ")
        if subject not in cover.subjects:
            raise Refused(f"its cover letter does not list {subject}")

    def check_style(self, path):
        """checkpatch.pl, of this source, has nothing to say."""
        # The kernel's history is not here, so no commit is known. Without a repository at all, it
        # still checks how Fixes: is written. It leaves a file where it runs.
        status, said = call(["perl", self.folder / "scripts/checkpatch.pl", "--strict",
                             "--show-types", "--ignore=UNKNOWN_COMMIT_ID",
                             f"--root={self.folder}", path],
                            self.folder / ".git", environment(GIT_DIR="/nonexistent"))
        if status != 0 or not CLEAN.search(said):
            found = re.findall(r"^(?:ERROR|WARNING|CHECK):.*", said, re.M)
            raise Refused(f"checkpatch.pl: {'; '.join(found) or first_line(said)}")

    def touched(self, commit):
        """The files that a commit leaves changed."""
        return self.git("diff-tree", "-r", "--no-commit-id", "--name-only", "--diff-filter=d",
                        commit).split()

    # ---- A patch as code ----

    def start_objects(self, folder):
        """Takes the kept objects of a build of the base."""
        self.checkout(self.base)
        objects = self.folder / source.OBJECTS
        shutil.rmtree(objects, ignore_errors=True)
        subprocess.run([*cache.DIE_TOO, "cp", "-a", "--reflink=auto", folder / source.OBJECTS,
                        objects], check=True)

    def build(self, flavour, heard=lambda line: None):
        """Builds what the last checkout has changed; how many files that were."""
        text = []

        def hear(line):
            text.append(line)
            heard(line)

        try:
            source.make_image(self.folder, flavour, hear)
        except source.BuildError as error:
            found = [line.strip() for line in text if re.search(r": (?:fatal )?error: ", line)]
            raise Refused(f"it does not build: {first_line(chr(10).join(found) or str(error))}"
                          ) from error
        found = [line for line in text if WARNS.search(line)]
        if found:
            raise Refused(f"its build warns: {first_line(found[0])}")
        return len(read_log("".join(text), "CC").named)

    def objects_of(self, files):
        """{file: make's goals of the objects made of it}; of a header, of all that include it."""
        made, users = {}, collections.defaultdict(set)
        for command in sorted((self.folder / source.OBJECTS).rglob(".*.o.cmd")):
            text = command.read_text(errors="replace")
            match = re.search(r"^source_(\S+) := (\S+)$", text, re.M)
            if match:
                made[stem(match[2])] = {match[1]}
                for name in re.findall(r"^ +\.\./(\S+\.h) \\$", text, re.M):
                    users[os.path.normpath(name)].add(match[1])
        found = {file: users.get(file) if file.endswith(".h") else made.get(stem(file))
                 for file in files}
        return {file: goals for file, goals in found.items() if goals}

    def log_of(self, flavour, goals, arguments):
        """The Log of making objects again with a checker, sparse or else the compiler's W=1."""
        text = []
        for goal in goals:
            (self.folder / source.OBJECTS / goal).unlink(missing_ok=True)
        if goals:
            try:
                source.make(self.folder, flavour, [*arguments, *goals], text.append)
            except source.BuildError as error:
                raise Refused(first_line(str(error))) from error
        return read_log("".join(text), "CHECK" if "C=2" in arguments else "CC")

    def compare_log(self, flavour, goals, arguments, before):
        """Refuses warnings that were not there before, and a log that lacks one of the objects."""
        after = self.log_of(flavour, goals, arguments)
        new = after.warnings - before.warnings
        if new:
            raise Refused(f"a new warning: {next(iter(new))}")
        lacking = {stem(goal) for goal in goals} - after.named
        if lacking:
            raise Refused(f"its log does not name {min(lacking)}")


def build(file, flavour, series, say):
    """The kernel folder of a source with a series on it, built from its base's objects."""
    base = source.build(file, flavour, say)

    def fill(folder):
        label = f"building {file.name} with its series, {flavour}"
        with source.tree(file, say) as place, Tree(place, series.files) as tree:
            tree.start_objects(base)
            for patch in series.patches:
                tree.apply(patch.path)
            tree.build(flavour, source.progress(label, 0, say))
            source.copy_kernel(place, flavour, folder)

    return cache.entry("kernel", [base.name, *(patch.path for patch in series.patches)], fill)
