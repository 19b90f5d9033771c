"""Looks up known vulnerabilities of the locked versions: `python tools/audit.py [OPTION ...]`; options are pip-audit's.

It needs `pip-audit`, which `make audit` installs in an environment of its own. pip-audit passes over what its advisories do not
answer for, and is content; here that is no success. Exits with 0 only where every version was looked up and has none.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COMMAND = ("pip-audit", "--disable-pip", "--require-hashes", "--format=json", "--progress-spinner=off")
LOCKS = ("requirements.lock", "requirements-cuda.lock")
# Of what was not looked up, so many are named.
NAMED = 3


def main(arguments: list[str]) -> int:
    """Tells what is known, and returns the exit code."""
    if shutil.which(COMMAND[0]) is None:
        print(f"audit: no {COMMAND[0]} is installed, and no locked version was checked: `make audit` installs it")
        return 1
    files = [part for name in LOCKS for part in ("-r", str(ROOT / name))]
    done = subprocess.run([*COMMAND, *files, *arguments], capture_output=True, text=True)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or [f"pip-audit ended with code {done.returncode}"])[-1]
        print(f"audit: the advisories could not be reached, and no locked version was checked: {reason[:300]}")
        return 1
    known = [(one, vulnerability) for one in found for vulnerability in one.get("vulns", [])]
    for one, vulnerability in known:
        names = ", ".join([vulnerability["id"], *(vulnerability.get("aliases") or ())])
        fixed = " or ".join(vulnerability.get("fix_versions") or ()) or "no version yet"
        print(f"audit: {one['name']} {one['version']}: {names}; fixed in {fixed}")
    left = [one["name"] for one in found if "skip_reason" in one]
    if left:
        more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
        print(
            f"audit: the advisories of {len(left)} of {len(found)} locked versions could not be reached, and these were not "
            f"checked: {', '.join(left[:NAMED])}{more}"
        )
    if not known and not left:
        print(f"audit: nothing is known of any of the {len(found)} locked versions")
    return int(bool(known or left or not found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
