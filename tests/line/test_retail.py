"""The line on real invoices (half a year of them): grain user, no market, rows without a customer, cancellations."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import pytest
from line_support import run, small_settings
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from propensity_spark.publish import verify
from propensity_spark.schemas import ACTIVITY, BRONZE, QUARANTINE

pytestmark = pytest.mark.usefixtures("compiled")

DATA = Path(os.environ.get("PROPENSITY_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
AS_OF = date(2011, 6, 30)
SMALL = (
    "schedule.dates=24",
    "split.test_dates=2",
    "split.calibration_dates=2",
    "split.validation_dates=2",
    "split.min_train_dates=4",
    "train.rounds=20",
    "evaluate.bootstrap_rounds=20",
    "evaluate.shap_rows=100",
    "evaluate.auc_margin_over_baseline=-1.0",
    "evaluate.max_calibration_error=1.0",
    "evaluate.min_segment_auc=0.0",
)


@pytest.mark.skipif(not (DATA / "online_retail").is_dir(), reason=f"the real data set online_retail is not in {DATA}")
def test_half_a_year_of_invoices(spark: SparkSession, tmp_path: Path) -> None:
    """Gates are opened wide here: what is tested is the line, not the model of half a year."""
    settings = small_settings(tmp_path, *SMALL, dataset="retail", data=str(DATA))
    finished = run(spark, settings, AS_OF)
    lake = finished.lake
    valid, rejected, delivered = lake.read(ACTIVITY).count(), lake.read(QUARANTINE).count(), lake.read(BRONZE["activity"]).count()
    assert valid + rejected == delivered
    without_customer = lake.read(BRONZE["activity"]).where(F.col("payload").rlike(",,[^,]*$")).count()
    assert lake.read(QUARANTINE).where(F.array_contains("reasons", "null:user_id")).count() == without_customer > 0
    assert lake.read(ACTIVITY).where("event_type = 'cancel' AND (quantity >= 0 OR amount >= 0)").count() == 0
    assert lake.read(ACTIVITY).agg(F.max("event_date")).collect()[0][0] <= AS_OF
    (published,) = verify(settings.publish.uri)
    assert published.rows == lake.read(ACTIVITY).select("user_id").distinct().count()
