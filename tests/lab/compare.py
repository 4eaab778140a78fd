# SPDX-License-Identifier: MIT
"""What two runs say of a kernel series: one of the kernel without it, one with it."""
import results

# Of gmem-kernel-check, before a fault's name.
KNOWN_FAULT = "known fault: "
# Of a selftest, which then says nothing of what it would have found.
NO_END = "no end"
# A selftest's own verdict among those of its tests.
PROGRAM = "(program)"


def lost_tests(before, after):
    """Records of what passed before and does not pass after."""
    verdicts = {(record.program, record.test): record.verdict for record in after
                if record.verdict != "note"}
    for record in before:
        found = verdicts.get((record.program, record.test), "nothing")
        if record.verdict == "pass" and found not in ("pass", "fail"):
            yield record._replace(verdict="fail", reason=f"pass before, {found} after")


def judge_fault(fault, pairs):
    """What is wrong with a fault that tests must find before, and which must pass after; or None.

    pairs: of records before and after, a pair a kind of machine. Some faults need their own kind.
    """
    lacking, found = set(), False
    for before, after in pairs:
        tests = {(record.program, record.test) for record in before
                 if record.verdict == "note" and record.reason == KNOWN_FAULT + fault}
        found |= bool(tests)
        lacking |= tests - {(record.program, record.test) for record in after
                            if record.verdict == "pass"}
    if not found:
        return "no test finds it on the kernel without the series"
    return f"{', '.join(test for _, test in sorted(lacking))} does not pass" if lacking else None


def judge_selftest(before, after, brought):
    """Sentences on where a selftest's results differ. brought: the series changes this test."""
    for name in sorted({*before, *after}):
        old, new = before.get(name, "nothing"), after.get(name, "nothing")
        if NO_END in (old, new) or old != new and not (brought and new == "pass"):
            yield f"{name}: {old} before, {new} after"


def judge_brought(before, after):
    """Sentences on a selftest as the series has it, which is to fail only without the series."""
    if not before[PROGRAM].startswith("status"):
        yield f"as the series has it, {before[PROGRAM]} without the series"
    if after[PROGRAM] != "pass":
        yield f"as the series has it, {after[PROGRAM]} with the series"


def failures(records):
    return [record for record in records if record.verdict == "fail"]


def judge_machine(name, before, after):
    """A Record for each failure of the kernel with the series, or one that says that all is well.
    """
    wrong = failures(after) + list(lost_tests(before, after))
    # Where the other kernel has not shown what passes, nothing is compared.
    wrong += [record._replace(reason=f"without the series: {record.reason}")
              for record in failures(before) if record.program == results.MACHINE]
    if not any(record.verdict == "pass" for record in before):
        wrong.append(results.Record(results.MACHINE, "tests", "fail",
                                    "without the series: nothing passed"))
    for record in wrong:
        yield record._replace(program=name, test=f"{record.program}: {record.test}")
    if not wrong:
        yield results.Record(name, "tests", "pass", f"{results.count(after)['pass']} passed")
