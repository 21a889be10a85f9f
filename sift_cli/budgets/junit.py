"""A report as JUnit's XML, in the form that Jenkins and GitLab read (junit-10.xsd): a suite for each file, a case for
each budget."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from sift_cli.budgets.report import CheckReport, FileReport
from sift_cli.core.text import printable


def document(report: CheckReport) -> str:
    """The report as one XML document."""
    root = ET.Element("testsuites", {"name": "sift check", **_counts(list(report.files))})
    for file in report.files:
        suite = ET.SubElement(root, "testsuite", {"name": printable(str(file.path)), **_counts([file])})
        for row in file.rows:
            case = ET.SubElement(suite, "testcase", classname=printable(str(file.path)), name=printable(row.budget))
            if row.verdict != "held":
                tag = "failure" if row.verdict == "broken" else "error"
                said = ET.SubElement(case, tag, type=row.budget, message=printable(row.sentence()))
                said.text = printable(f"{file.path}: {row.sentence()}")
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode")


def _counts(files: list[FileReport]) -> dict[str, str]:
    verdicts = [row.verdict for file in files for row in file.rows]
    return {
        "tests": str(len(verdicts)),
        "failures": str(verdicts.count("broken")),
        "errors": str(verdicts.count("error")),
    }
