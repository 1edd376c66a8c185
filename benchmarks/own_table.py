"""`make bench-table`: `propensity table` on two tables, as a person would type it: seconds from start to exit, and what it said.

`clicks`: 455,401 simulated visitors, 23 columns of 0 and 1, of whom 4.19% ordered, nobody without having seen the checkout (as in a
published click stream of that size); once as it is, once without the columns that give the order away. `retail`, where the shared data are:
each customer of Online Retail as of 2011-10-10 with sums of what they did before, and whether they purchased in the 30 days after it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

ROWS, COLUMNS, ORDERED = 455_401, 23, round(0.0419 * 455_401)
CHECKOUT = ("saw_checkout", "opened_basket_again")
RETAIL = """
COPY (
  WITH lines AS (
    SELECT CAST(CAST(CustomerID AS DOUBLE) AS INT) AS id, CAST(InvoiceDate AS TIMESTAMP) AS moment, InvoiceNo AS invoice,
           Country AS country,
           StockCode AS item,
           CAST(Quantity AS DOUBLE) AS pieces, CAST(Quantity AS DOUBLE) * CAST(UnitPrice AS DOUBLE) AS amount
    FROM read_csv('{files}', all_varchar = true, header = true) WHERE CustomerID <> ''
  ), before AS (SELECT * FROM lines WHERE moment < TIMESTAMP '2011-10-11'),
  after AS (SELECT DISTINCT id FROM lines WHERE moment >= TIMESTAMP '2011-10-11' AND moment < TIMESTAMP '2011-11-10' AND pieces > 0)
  SELECT id AS "UserID", any_value(country) AS country, min(moment)::DATE AS "first order", max(moment)::DATE AS "last order",
         count(DISTINCT invoice) AS orders, count(DISTINCT item) AS items, sum(amount) AS spent,
         sum(amount) FILTER (moment >= TIMESTAMP '2011-07-12') AS "spent, 90 days", avg(pieces) AS "pieces a line",
         count(DISTINCT invoice) FILTER (pieces < 0) AS cancelled, CAST(id IN (SELECT id FROM after) AS INT) AS ordered
  FROM before GROUP BY id
) TO '{table}' (HEADER)
"""


def clicks(path: Path) -> None:
    """Visitors whose interest moves all they click; an order needs the checkout."""
    rng = np.random.default_rng(23)
    interest = rng.normal(size=ROWS)
    often = np.linspace(-0.5, -3.5, COLUMNS)
    seen = rng.random((ROWS, COLUMNS)) < 1 / (1 + np.exp(-(often + interest[:, None] * rng.uniform(-0.4, 1.2, COLUMNS))))
    names = [*(f"clicked_{number:02}" for number in range(COLUMNS - len(CHECKOUT))), *CHECKOUT]
    wish = 1.4 * interest + seen[:, :6] @ rng.normal(0, 0.8, 6) + 1.5 * (seen[:, 6] & ~seen[:, 7]) + rng.logistic(size=ROWS)
    seen[:, -2] = wish + rng.normal(size=ROWS) > np.quantile(wish, 0.9)
    ordered = np.zeros(ROWS, bool)
    ordered[np.argsort(np.where(seen[:, -2], -wish, np.inf))[:ORDERED]] = True
    frame = pd.DataFrame(seen.astype(np.int8), columns=names)
    frame.insert(0, "UserID", [f"v{number:06}" for number in range(ROWS)])
    frame.assign(ordered=ordered.astype(np.int8)).to_csv(path, index=False)


def retail(data: Path, path: Path) -> None:
    """Customers of Online Retail as of 2011-10-10."""
    duckdb.sql(RETAIL.format(files=data / "online_retail" / "by_day" / "*.csv.gz", table=path))


def propensity(folder: Path, *words: str) -> None:
    """Run `propensity table` in the folder, and print what it printed with the seconds it took."""
    sys.stdout.write(f"\n$ propensity table {' '.join(words)}\n")
    started = time.monotonic()
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    ended = subprocess.run(
        [sys.executable, "-m", "propensity_spark", "table", *words],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    sys.stdout.write(f"{ended.stdout}[{time.monotonic() - started:.1f} s, exit code {ended.returncode}]\n")
    sys.stdout.flush()


def show(folder: Path, name: str, *options: str) -> None:
    """Train, evaluate and score one table."""
    propensity(folder, "train", "--name", name, "--id", "UserID", "--label", "ordered", *options)
    table = options[1]
    propensity(folder, "evaluate", "--name", name, "--input", table)
    propensity(folder, "score", "--name", name, "--input", table, "--output", f"{name}_scores.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("lake/bench-table"), help="where the tables go (default: %(default)s)")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    clicks(folder / "clicks.csv")
    show(folder, "clicks", "--input", "clicks.csv")
    show(folder, "clicks-before", "--input", "clicks.csv", *(word for name in CHECKOUT for word in ("--type", f"{name}=ignore")))
    data = Path(os.environ.get("PROPENSITY_SHARED_DATA", "../shared/data"))
    if not data.is_dir():
        sys.stdout.write(f"no shared data at {data}: the real table is left out\n")
        return
    retail(data, folder / "retail.csv")
    show(folder, "retail", "--input", "retail.csv", "--as-of", "2011-10-10", "--set", "table.folds=5")


if __name__ == "__main__":
    main()
