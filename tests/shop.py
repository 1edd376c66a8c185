"""A small shop: the data set of the README, as an engineer would add it, with a year of orders to read."""

from __future__ import annotations

import os
import random
import re
import shutil
from datetime import date, datetime, timedelta
from pathlib import Path

from propensity_spark.config import CONF_DIR, Settings, load_settings

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
FIRST, LAST, AS_OF = date(2023, 1, 2), date(2024, 1, 31), date(2023, 12, 31)
INTERPRETED = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}
SHORT_LIVED = {
    "JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
}
"""Environment of a process that a test starts for a minute: a JVM without its second compiler, which takes a fifth of all the CPU time of a
small line and whose code comes too late, with the room for code of one that has it (else 48 MB, too little for Spark: compiled methods are
thrown away and made anew, a sixth of the JVM's CPU time); and where the package and the tests' own modules are."""
FEW = (
    "schedule.dates=24",
    "split.test_dates=2",
    "split.calibration_dates=2",
    "split.validation_dates=2",
    "split.min_train_dates=4",
    "train.rounds=10",
    "evaluate.bootstrap_rounds=10",
    "evaluate.shap_rows=50",
    "evaluate.auc_margin_over_baseline=-1.0",
    "evaluate.max_calibration_error=1.0",
    "validation.gate_by_table={activity: {max_rejected_share: 0.5}}",
    *(f"spark.conf={{{name}: {value!r}}}" for name, value in INTERPRETED.items()),
)


def write_orders(folder: Path, customers: int = 60) -> None:
    """One CSV a month: steady customers and rare ones, some lines without a customer, one that is twice there."""
    draw = random.Random(5)
    habits = {f"c{number:03}": draw.choice([0.01, 0.03, 0.15]) for number in range(customers)}
    months: dict[str, list[str]] = {}
    for ahead in range((LAST - FIRST).days + 1):
        day = FIRST + timedelta(days=ahead)
        lines = months.setdefault(f"orders_{day:%Y-%m}", [])
        for customer, habit in habits.items():
            if draw.random() < habit:
                moment = datetime(day.year, day.month, day.day, draw.randrange(8, 20))
                who = "" if draw.random() < 0.02 else customer
                lines.append(f"{who},s{draw.randrange(9)},{moment},o{len(lines)}-{day},{draw.randrange(500, 9000) / 100:.2f}")
    folder.mkdir(parents=True)
    for name, lines in months.items():
        (folder / f"{name}.csv").write_text("\n".join(["customer,sku,ordered_at,order_no,total", *lines, lines[0]]) + "\n")


def settings(place: Path, data: Path, *overrides: str) -> Settings:
    """The README's own data set, word for word, in a copy of conf/."""
    conf = data / "conf"
    if not conf.exists():
        shutil.copytree(CONF_DIR, conf)
        (text,) = re.findall(r"```yaml\n(# conf/datasets/shop\.yml.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
        (conf / "datasets" / "shop.yml").write_text(text, encoding="utf-8")
    paths = (f"lake.root={place / 'lake'}", f"publish.uri={place / 'published'}")
    return load_settings(conf / "local.yml", "shop", [*paths, *FEW, *overrides], str(data), conf)
