"""Known vulnerabilities in what is installed and in the native module's crates: `nox -s audit`.

Fails in one sentence where the advisories cannot be reached. A package that could not be looked up is a failure too:
an audit that looked at half of it found nothing out.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def main(python: str, crate: str) -> None:
    """Audit the environment of `python`, then the crate."""
    problems = [*audit_python(python), *audit_rust(Path(crate))]
    for problem in problems:
        print(problem, file=sys.stderr)  # noqa: T201
    sys.exit(bool(problems))


def audit_python(python: str) -> list[str]:
    """Return what is wrong with the distributions installed beside ours."""
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        check=True,
        capture_output=True,
        text=True,
    )
    wanted = [
        f"{row['name']}=={row['version']}"
        for row in json.loads(listed.stdout)
        if not row["name"].startswith("riteraft")
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write("\n".join(wanted) + "\n")
        requirements.flush()
        audited = subprocess.run(
            [
                *(sys.executable, "-m", "pip_audit", "--requirement", requirements.name, "--no-deps", "--disable-pip"),
                *("--format", "json", "--progress-spinner", "off"),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
    try:
        rows = json.loads(audited.stdout)["dependencies"]
    except (ValueError, KeyError):
        return [f"pip-audit could not ask for advisories: {_last_line(audited.stderr)}"]
    problems = [f"{row['name']} was not audited: {row['skip_reason']}" for row in rows if "skip_reason" in row]
    if rows and len(problems) == len(rows):
        return [f"pip-audit could not ask for advisories: its source knows none of {len(rows)} distributions"]
    problems += [
        f"{row['name']} {row['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version'}"
        for row in rows
        for found in row.get("vulns", ())
    ]
    if len(rows) != len(wanted):
        problems.append(f"pip-audit looked at {len(rows)} of {len(wanted)} distributions")
    if not problems:
        print(f"pip-audit: {len(rows)} distributions, nothing known against them")  # noqa: T201
    return problems


def audit_rust(crate: Path) -> list[str]:
    """Return what is wrong with the crates; what is ignored, and why, stands in .cargo/audit.toml."""
    if shutil.which("cargo-audit") is None:
        return ["cargo-audit is not installed: cargo install cargo-audit --locked"]
    audited = subprocess.run(
        ["cargo", "audit", "--deny", "warnings", "--json"], cwd=crate, check=False, capture_output=True, text=True
    )
    try:
        report = json.loads(audited.stdout)
        count = report["lockfile"]["dependency-count"]
        found = report["vulnerabilities"]["list"] + [row for rows in report["warnings"].values() for row in rows]
    except (ValueError, KeyError):
        return [f"cargo audit could not ask for advisories: {_last_line(audited.stderr)}"]
    problems = [
        f"crate {row['package']['name']} {row['package']['version']}: {(row.get('advisory') or {}).get('id', 'yanked')}"
        for row in found
    ]
    if audited.returncode != 0 and not problems:
        problems.append(f"cargo audit failed: {_last_line(audited.stderr)}")
    if not problems:
        print(f"cargo audit: {count} crates, nothing known against them but what .cargo/audit.toml ignores")  # noqa: T201
    return problems


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


if __name__ == "__main__":
    main(*sys.argv[1:])
