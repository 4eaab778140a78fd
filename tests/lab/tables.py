# SPDX-License-Identifier: MIT
"""Files of lines in columns, read strictly: a wrong line is an error that says where it is."""


class TableError(Exception):
    """A line is wrong."""


def read_lines(path):
    """(where, text) of each line that says something."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield f"{path}:{number}", line


def expect(condition, where, message):
    if not condition:
        raise TableError(f"{where}: {message}")
