# SPDX-FileCopyrightText: The ext2cow authors
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a run found, as lines, JSON and pictures."""
import json
import os
import platform
import sys
import time

from benchmark import chart, table, table_picture

TITLES = {"steady": "A long write into one session",
          "scale": "What growth costs",
          "commits": "What commits and connections cost"}


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def check_text(check):
    word = "" if check["reached"] else "MISSED"
    return (f"{check['name']:62} {check['value']:9.3g} {check['relation']} "
            f"{check['target']:<6.3g} {check['unit']:4} {check['note']} "
            f"{word}").rstrip()


class Report:
    def __init__(self, options):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.content = {
            "date": time.strftime("%Y-%m-%d"), "quick": options.quick,
            "rounds": options.rounds,
            "machine": {"cpus": os.cpu_count(), "processor": processor(),
                        "memory": memory, "kernel": platform.release()},
            "table": [], "checks": [], "notes": [], "errors": [],
            "figures": []}

    def __getattr__(self, name):
        try:
            return self.content[name]
        except KeyError:
            raise AttributeError(name) from None

    def row(self, result):
        if not self.table:
            say(table.HEADING)
        self.table.append(result)
        say(table.text(result))

    def check(self, name, value, relation, target, unit="", note=""):
        reached = value <= target if relation == "<=" else value >= target
        self.checks.append({"name": name, "value": value, "unit": unit,
                            "relation": relation, "target": target,
                            "reached": reached, "note": note})
        say(check_text(self.checks[-1]))

    def note(self, name, value, unit):
        self.notes.append({"name": name, "value": value, "unit": unit})
        if isinstance(value, dict):
            value = "  ".join(f"{k} {v:.3g}" for k, v in value.items())
        else:
            value = f"{value:.3g}"
        say(f"  {name}: {value} {unit}")

    def error(self, name, error):
        self.errors.append(f"{name}: {error}")
        say(f"{name}: not measured: {str(error)[:200]}")

    def figure(self, part, title, x, y, series, limits=(), log_x=False,
               log_y=False):
        self.figures.append({
            "part": part, "title": title,
            "x": {"label": x[0], "unit": x[1], "log": log_x},
            "y": {"label": y[0], "unit": y[1], "log": log_y},
            "series": [{"name": name, "points": points}
                       for name, points in series],
            "limits": [{"label": label, "points" if isinstance(
                value, list) else "y": value} for label, value in limits]})

    def summary(self):
        reached = [not table.missed(r) for r in self.table if r["counts"]]
        reached += [c["reached"] for c in self.checks]
        others = sum(not r["counts"] for r in self.table)
        return (f"{sum(reached)} of {len(reached)} targets reached, "
                f"{len(reached) - sum(reached)} missed, "
                f"{others} that do not count here, "
                f"{len(self.errors)} not measured")


def say(text):
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    print(text, flush=True)


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def below(content):
    machine = content["machine"]
    mode = "one quick round" if content["quick"] else (
        f"{content['rounds']} rounds")
    return (f"{content['date']}, {machine['cpus']} CPUs "
            f"({machine['processor']}), {machine['memory'] / 2**30:.0f} GiB, "
            f"Linux {machine['kernel']}, {mode}")


def draw(content, directory):
    """A picture for each part that was measured."""
    pictures = {}
    if content["table"]:
        pictures["table"] = table_picture.picture(
            "ext2cow beside its peers: ratios as multiples of their targets",
            below(content), content["table"])
    for part, title in TITLES.items():
        figures = [f for f in content["figures"] if f["part"] == part]
        if figures:
            pictures[part] = chart.picture(title, below(content), figures)
    for name, text in pictures.items():
        with open(os.path.join(directory, name + ".svg"), "w",
                  encoding="utf-8") as out:
            out.write(text)


def rounded(value):
    """Five digits are more than the machine's noise leaves true."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return value


def lines(content):
    """JSON with a line for each item of the lists at the top."""
    parts = []
    for key, value in rounded(content).items():
        if isinstance(value, list) and value:
            items = ",\n ".join(json.dumps(item) for item in value)
            value = f"[\n {items}]"
        else:
            value = json.dumps(value)
        parts.append(f"{json.dumps(key)}: {value}")
    return "{" + ",\n".join(parts) + "}\n"


def save(content, directory):
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "report.json"), "w",
              encoding="utf-8") as out:
        out.write(lines(content))
    draw(content, directory)


def redraw(directory):
    with open(os.path.join(directory, "report.json"), encoding="utf-8") as text:
        content = json.load(text)
    print(table.HEADING)
    for result in content["table"]:
        print(table.text(result))
    for check in content["checks"]:
        print(check_text(check))
    draw(content, directory)
