"""What a run leaves behind: a table on the terminal, latest.json, report.md, and the plots."""

import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import time

from harness import RELEASE, ROOT

RESULTS = ROOT / "bench" / "results"  # of the last run; not tracked
PLOTS = ROOT / "bench" / "plots"  # what the README shows; tracked


def machine():
    """What the figures were measured on."""
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return (f"{os.cpu_count()} cores ({model[1] if model else platform.machine()}), Linux {platform.release()}, "
            f"{time.strftime('%Y-%m-%d')}, commit {commit.stdout.strip() or 'unknown'}")


def line(result):
    """One result in one line of text."""
    reference = f" against {result.row.against}" if result.row.against else ""
    detail = f"  [{result.detail}]" if result.detail else ""
    return f"{result.verdict:8}  {result.row.name:22}  {result.value_text()}{reference}  {result.row.limit_text()}{detail}"


def markdown(results, run):
    """The report."""
    text = ["# Figures", "", f"Measured by `bench/run{run.words}`: {machine()}.",
            "Ratios are taken per round to a reference measured right before or after; the median is quoted with its range,",
            "and a row fails only if the whole range is beyond its limit.", "",
            "| row | what | against | measured | figures | limit | |", "|---|---|---|---|---|---|---|"]
    for result in results:
        row, verdict = result.row, "**FAIL**" if result.verdict == "FAIL" else result.verdict
        cells = [f"`{row.name}`", row.what, row.against or "", result.value_text(), result.detail, row.limit_text(), verdict]
        text.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    text += ["", "## How each was measured", ""]
    text += [f"- `{result.row.name}`: {result.row.how}" for result in results]
    return "\n".join(text) + "\n"


def write(results, run):
    """latest.json and report.md, and the plots of what was measured."""
    RESULTS.mkdir(exist_ok=True)
    for plot in RESULTS.glob("*.svg"):
        plot.unlink()  # of an earlier run
    report = {"machine": machine(), "command": f"bench/run{run.words}", "rounds": run.rounds, "seconds": run.seconds,
              "rows": [result.as_json() for result in results], "series": run.series}
    (RESULTS / "latest.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "report.md").write_text(markdown(results, run))
    if run.series:
        subprocess.run([RELEASE / "plot", RESULTS / "latest.json", RESULTS], check=True)


def publish():
    """Takes over report and plots of this run into the tracked folder."""
    PLOTS.mkdir(exist_ok=True)
    for file in [RESULTS / "report.md", *RESULTS.glob("*.svg")]:
        shutil.copy(file, PLOTS / file.name)
