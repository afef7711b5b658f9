"""Write the dashboard and the alert rules, or tell which are not up to date.

Examples:
  python -m infra.grafana            # after a change of the panels, the alerts or the metrics
  python -m infra.grafana --check
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from infra.grafana.alerts import rules
from infra.grafana.dashboard import dashboard

_MADE = "# Made by `make manifests` from infra/grafana/alerts.py; changes here are lost.\n"


def render() -> dict[str, str]:
    """Text of every generated file, by its name."""
    return {
        "dashboard.json": json.dumps(dashboard(), indent=1) + "\n",
        "alerts.yml": _MADE + yaml.safe_dump(rules(), sort_keys=False, width=1000),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.grafana",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path(__file__).parent)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if files differ")
    args = parser.parse_args(arguments)
    stale = 0
    for name, text in render().items():
        target = args.out / name
        if not args.check:
            target.write_text(text, encoding="utf-8")
            print(target)
        elif not target.is_file() or target.read_text(encoding="utf-8") != text:
            stale = 1
            print(f"error: {target} is not what the code makes; run make manifests")
    return stale


if __name__ == "__main__":
    sys.exit(main())
