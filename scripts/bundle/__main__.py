"""`python -m scripts.bundle`: every target, with each kind of compute; exit code 1 when anything is wrong."""

import sys
from pathlib import Path

from scripts.bundle.lint import lint, wheel_of
from scripts.bundle.official import check
from scripts.bundle.resolve import BundleError, resolve, targets

COMPUTE = ("on_job_cluster", "on_serverless")


def main(root: Path) -> int:
    found = 0
    for target in targets(root):
        for compute in COMPUTE:
            try:
                resolved = resolve(root, target, {"compute": f"${{var.{compute}}}"})
                problems = check(resolved) + lint(resolved, wheel_of(root))
            except BundleError as error:
                problems = [str(error)]
            found += len(problems)
            sys.stdout.write(f"{target} {compute}: {'fine' if not problems else ''}\n" + "".join(f"  {text}\n" for text in problems))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(Path.cwd()))
