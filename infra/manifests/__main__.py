"""Write the generated manifests, or tell which are not up to date.

Examples:
  python -m infra.manifests            # after a change of infra/values.yaml
  python -m infra.manifests --check
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from infra.manifests.build import render
from infra.manifests.values import INFRA, load_values
from pipeline.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.manifests",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--values", metavar="YAML", type=Path, default=INFRA / "values.yaml")
    parser.add_argument("--out", metavar="DIR", type=Path, default=INFRA)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if files differ")
    args = parser.parse_args(arguments)
    try:
        files = render(load_values(args.values))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.check:
        return _check(files, args.out)
    for path, text in files.items():
        target = args.out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        print(target)
    return 0


def _check(files: dict[Path, str], folder: Path) -> int:
    stale = [
        path
        for path, text in files.items()
        if not (folder / path).is_file() or (folder / path).read_text(encoding="utf-8") != text
    ]
    for path in stale:
        print(f"error: {folder / path} is not what the values make; run make manifests")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
