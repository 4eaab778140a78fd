# SPDX-License-Identifier: MIT
"""What the programs of bench/ said in a lab machine."""
import json

import results


# Measuring takes so many times as long as testing.
PATIENCE = 10


def with_time(kernel):
    """The kernel's machine given the time that measuring takes."""
    return kernel._replace(options=kernel.options | {"patience": str(PATIENCE * kernel.patience)})


def with_clock(kernel):
    """The kernel told to trust the processor's own clock: looking at another takes an emulated
    machine as long as a small system call."""
    if kernel.arch != "x86-64":
        return kernel
    words = [*filter(None, [kernel.options.get("append")]), "tsc=reliable"]
    return kernel._replace(options=kernel.options | {"append": " ".join(words)})


def read_report(output):
    """The report of a program that measured, or None."""
    try:
        report = json.loads(output)
        sound = bool(report["cases"] and report["bench"])
    except (ValueError, KeyError, TypeError):
        return None
    return report if sound else None


def judge_program(program, reader):
    """A record, and the report if there is one."""
    ended = next((ended for ended in reader.ended if ended.name == program.name), None)
    errors = reader.files.get((program.name, "errors"), b"")
    report = read_report(reader.files.get((program.name, "output"), b""))
    if not ended:
        verdict, reason = "fail", "its end did not come"
    elif ended.status == results.UNUSABLE:
        verdict, reason = "skip", results.last_line(errors)
    elif ended.status != 0 or not report:
        verdict = "fail"
        reason = f"status {ended.status} after {ended.seconds} s: {results.last_line(errors)}"
    else:
        verdict, reason = "pass", ""
    return (results.Record(program.name, "report", verdict, reason),
            report if verdict == "pass" else None)


def judge(outcome, reader, programs):
    """Records of the machine and of each program, and the reports."""
    records, reports = list(results.judge_machine(outcome, reader)), []
    for program in programs:
        record, report = judge_program(program, reader)
        records.append(record)
        reports += [report] * bool(report)
    return records, reports
