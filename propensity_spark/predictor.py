"""The model as a value: a booster, its calibration, and what scoring and monitoring must know about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from propensity_spark.config import LabelSettings
from propensity_spark.tree_shap import tree_shap


@dataclass(frozen=True)
class ReferenceBins:
    """A distribution to hold later ones against.

    Bin i holds the values above `edges[i-1]` and up to and including `edges[i]` (the first and last are open), so there is one
    share more than edges. `shares` are of the values that are not null and sum to 1; `null_share` is of all rows.
    `usual_psi` is the largest PSI that a single training date showed against them: what a day without drift may show.
    `categories`: of a categorical subject the values seen in training, one per bin; the bin after them holds values never seen.
    """

    edges: tuple[float, ...]
    shares: tuple[float, ...]
    null_share: float
    usual_psi: float = 0.0
    categories: tuple[str, ...] = ()

    @property
    def expected(self) -> list[float]:
        """Shares of all rows: one per bin and, last, of nulls."""
        return [*(share * (1 - self.null_share) for share in self.shares), self.null_share]


@dataclass(frozen=True)
class Calibration:
    """`method` (isotonic, beta or platt), why it was chosen, and the log loss of each method tried where they were compared."""

    method: str
    reason: str
    log_loss: Mapping[str, float]


@dataclass(frozen=True)
class PropensityModel:
    """A boosted model with its calibration and all that scoring and monitoring must know about it.

    `booster` is UBJSON; `calibration_x`, `calibration_y` are the knots from raw to calibrated probability; `calibration` says
    how they were found (null: a version from before methods were compared), `threshold_by` by what the threshold was chosen;
    `baseline` has the bins of every feature on the training slice (weighted) and of `purchase_probability` on the calibration
    slice; `inputs` is table → Delta version.
    """

    name: str
    version: str
    grain: str
    features: tuple[str, ...]
    booster: bytes
    calibration_x: tuple[float, ...]
    calibration_y: tuple[float, ...]
    threshold: float
    baseline: Mapping[str, ReferenceBins]
    train_from: date
    train_to: date
    label: LabelSettings
    inputs: Mapping[str, int]
    calibration: Calibration | None = None
    threshold_by: str = "f1"

    def predict(self, matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Calibrated P(label = 1) for rows of features (float32, in the order of `features`, NaN = null)."""
        if len(matrix) == 0:
            return np.empty(0)
        raw = _booster(self.booster).inplace_predict(matrix, missing=np.nan)
        probability: npt.NDArray[np.float64] = np.interp(raw, self.calibration_x, self.calibration_y)
        return probability

    def contributions(self, matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Exact SHAP values of the trees in log-odds, (rows, features + 1): one per feature and, last, what all rows start from.

        A row's sum is its log-odds before calibration. XGBoost does a thousand or so rows a second. Source: Lundberg et al., "From local
        explanations to global understanding with explainable AI for trees", 2020.
        """
        import xgboost

        rows = xgboost.DMatrix(matrix, missing=np.nan)
        found: npt.NDArray[np.float64] = (
            _booster(self.booster).predict(rows, pred_contribs=True, validate_features=False).astype(np.float64)
        )
        return found

    def contributions_of_many(self, matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """`contributions`, to float32, looked up in tables that take a second or two to make, once in each process; a row's do not depend
        on the rows it comes with. A model that has no tables (categories, very deep trees) is left to `contributions`."""
        tables = tree_shap(self.booster)
        return self.contributions(matrix) if tables is None else tables.contributions(matrix).astype(np.float64)

    @property
    def rounds(self) -> int:
        """How many trees the model has."""
        return int(_booster(self.booster).num_boosted_rounds())

    def gain(self) -> dict[str, float]:
        """Feature → its share of what all splits of the trees gained together, largest first; a feature that no split asks is left out."""
        booster = _booster(self.booster)
        names = booster.feature_names or [f"f{place}" for place in range(len(self.features))]
        found = booster.get_score(importance_type="total_gain")
        total = sum(found.values()) or 1.0
        shares = {feature: found[name] / total for name, feature in zip(names, self.features, strict=True) if name in found}
        return dict(sorted(shares.items(), key=lambda share: -share[1]))

    def save(self, folder: Path) -> None:
        """Write booster.ubj, calibration.json and model.json."""
        dates = {"train_from": str(self.train_from), "train_to": str(self.train_to)}
        body = asdict(self) | dates | {"label": self.label.model_dump(mode="json")}
        (folder / "booster.ubj").write_bytes(body.pop("booster"))
        calibration = {"x": body.pop("calibration_x"), "y": body.pop("calibration_y"), "threshold": body.pop("threshold")}
        (folder / "calibration.json").write_text(json.dumps(calibration), encoding="utf-8")
        (folder / "model.json").write_text(json.dumps(body, indent=1, sort_keys=True), encoding="utf-8")


def read(folder: Path) -> PropensityModel:
    """The model that `PropensityModel.save` wrote."""
    body = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    calibration = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
    baseline = {
        subject: ReferenceBins(
            tuple(bins["edges"]), tuple(bins["shares"]), bins["null_share"], bins["usual_psi"], tuple(bins.get("categories", ()))
        )
        for subject, bins in body["baseline"].items()
    }
    changed = {
        "features": tuple(body["features"]),
        "booster": (folder / "booster.ubj").read_bytes(),
        "calibration_x": tuple(calibration["x"]),
        "calibration_y": tuple(calibration["y"]),
        "threshold": calibration["threshold"],
        "baseline": baseline,
        "train_from": date.fromisoformat(body["train_from"]),
        "train_to": date.fromisoformat(body["train_to"]),
        "label": LabelSettings.model_validate(body["label"]),
        "calibration": Calibration(**body["calibration"]) if body.get("calibration") else None,
    }
    return PropensityModel(**(body | changed))


@lru_cache(maxsize=4)
def _booster(ubj: bytes) -> Any:
    """Parsed once per process (a Spark worker is one), and bound to one thread: Spark counts a task as one core."""
    import xgboost

    booster = xgboost.Booster(model_file=bytearray(ubj))
    booster.set_param({"nthread": 1})
    return booster
