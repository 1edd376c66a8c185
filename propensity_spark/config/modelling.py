"""Dates, labels, candidates, samples, splits, the fit, its evaluation and its scores."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from propensity_spark.config.base import Count, Location, Positive, Section, Share

Whole = Literal["max_depth", "max_leaves"]
Tunable = (
    Whole
    | Literal["learning_rate", "min_child_weight", "subsample", "colsample_bytree", "colsample_bylevel", "colsample_bynode"]
    | Literal["reg_alpha", "reg_lambda", "gamma", "max_delta_step"]
)
"""XGBoost's parameters that can be searched, by their own names; those of Whole take whole numbers."""


class LabelSettings(Section):
    """Label 1 = at least one event of `event_types` in (D, D + horizon_days], not wholly undone by a `cancel`.

    `delay_days`: by how many days a purchase may become known after its date; a window has closed that long after its end.
    """

    event_types: tuple[str, ...] = ("buy",)
    horizon_days: Positive = 7
    delay_days: Count = 0

    @property
    def closing_days(self) -> int:
        """Days from D until the label of D can no longer change."""
        return self.horizon_days + self.delay_days


class ScheduleSettings(Section):
    """As-of dates for training: every `every_weeks` weeks on `weekday` (ISO 1–7), the last `dates` matured ones.

    `listed_dates`: these dates instead, for a source that can be looked at on certain dates only.
    """

    weekday: Annotated[int, Field(ge=1, le=7)] = 5
    every_weeks: Positive = 1
    dates: Positive = 40
    listed_dates: tuple[date, ...] | None = None


class CandidateSettings(Section):
    """Which (user, item) pairs are worth scoring on D (grain `user_item`).

    `exclude_held`: a pair that is held (a `buy` in `held_days`) is no candidate, whatever else speaks for it.
    """

    held_days: Positive = 365
    viewed_days: Positive = 30
    popular_items: Count = 10
    affine_sectors: Count = 2
    items_per_affine_sector: Count = 5
    all_items: bool = False
    exclude_held: bool = False


class CrowdSettings(Section):
    """Features from what other users have and acquire lately (grain `user_item`).

    Items are related by users with at most `max_items` of them, `min_users` at least, and of each item the `neighbours` strongest stay.
    `age_from`: how lately something was acquired is counted from the purchase's own date (`event`), or from the date on which it was
    `known`, for a source that dates a purchase to the start of an interval in which it happened.
    """

    enabled: bool = False
    age_from: Literal["event", "known"] = "event"
    max_items: Positive = 50
    min_users: Positive = 2
    neighbours: Positive = 100


class FeatureSettings(Section):
    """`risk_levels`: the values of `risk_tolerance` from the most careful to the boldest."""

    risk_levels: tuple[str, ...] = ("low", "medium", "high")
    crowd: CrowdSettings = CrowdSettings()


class SplitSettings(Section):
    """Which rows go to which slice.

    `by: dates`: so many of the latest schedule dates go to test, calibration and validation, in time order; the rest is training.
    `by: users`, for a horizon too long for three purges: only test lies apart in time; on the dates whose windows have closed by
    then, these shares of the users (by a hash) go to validation and calibration, the others to training.
    """

    by: Literal["dates", "users"] = "dates"
    test_dates: Positive = 4
    calibration_dates: Positive = 3
    validation_dates: Positive = 3
    min_train_dates: Positive = 8
    calibration_users: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.2
    validation_users: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.2


class SamplingSettings(Section):
    """Share of negatives kept in train and validation; of the pairs of a user, calibration and test keep all.

    `user_share`: the training dates (of every slice, test too) look at this share of the users, chosen by a hash; the day
    that is scored has all users. Only pairs are thinned, so at grain `user` it changes nothing.
    """

    negative_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    user_share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    seed: int = 20260101


class SearchRange(Section):
    """The values of a parameter that a search looks at: `low` to `high`, with `log` as many from 0.01 to 0.1 as from 0.1 to 1."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _is_a_range(self) -> SearchRange:
        if not self.low < self.high:
            raise ValueError(f"expected low < high, found {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"expected a positive low where log is true, found {self.low}")
        return self


class TuningSettings(Section):
    """A search for `train.params` with Optuna before the fit; what it finds is one more candidate. `trials: 0`: none.

    On the train and validation rows of so many whole users, always the same ones, that about `rows` of them are left. It ends after
    `trials` parameter sets or `seconds`; another run on the same rows, settings and code goes on where it ended.
    """

    trials: Count = 0
    seconds: Positive = 900
    rows: Annotated[int, Field(ge=1000)] = 200_000
    space: dict[Tunable, SearchRange] = Field(default={})

    @model_validator(mode="after")
    def _has_a_space(self) -> TuningSettings:
        if self.trials and not self.space:
            raise ValueError("train.tuning.space: expected at least one parameter to search, found none")
        return self


class TrainSettings(Section):
    """XGBoost parameters by their own names; `candidates` are overrides tried on the validation slice.

    `calibration`: isotonic, beta, platt, or auto: fitted on the calibration slice but its last date, and chosen by log loss on that.
    `monotone`: features whose rise may only raise (1) or only lower (−1) the probability, for values that training never saw.
    `num_workers: null` is as many as can run at once, which a model is repeatable with on a cluster of the same size only. A fit that loses
    a worker is started again, `attempts` times in all; whatever it does, it is cancelled after `deadline_seconds`.
    """

    rounds: Positive = 200
    attempts: Positive = 3
    deadline_seconds: Positive = 7200
    early_stopping_rounds: Positive = 20
    num_workers: Positive | None = 1
    params: dict[str, Any] = Field(default={})
    candidates: tuple[dict[str, Any], ...] = ()
    tuning: TuningSettings = TuningSettings()
    calibration: Literal["auto", "isotonic", "beta", "platt"] = "auto"
    monotone: dict[str, Literal[1, -1]] = Field(default={})
    seed: int = 7


class TableSettings(Section):
    """`propensity table`: shares of the rows that test, calibrate and validate; categories kept per column; parts of a cross-validation."""

    test_share: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.2
    calibration_share: Annotated[float, Field(gt=0.0, lt=0.4)] = 0.15
    validation_share: Annotated[float, Field(gt=0.0, lt=0.3)] = 0.1
    max_categories: Annotated[int, Field(ge=2, le=10_000)] = 100
    folds: Annotated[int, Field(ge=0, le=20)] = 0
    seed: int = 20260101

    @model_validator(mode="after")
    def _has_parts(self) -> TableSettings:
        if self.folds in (1, 2):
            raise ValueError(f"table.folds: expected 0 (none) or 3 and more (one is held out, one stops the fit), found {self.folds}")
        return self


class EvaluateSettings(Section):
    """`new_user_days`: a user whose first event is fewer days before D counts as new in the report.

    Gates for promotion: the ROC-AUC must exceed that of the baseline and of the champion by more than its margin, and over the champion
    not just as found but with the lower end of its paired 95% interval (`champion_margin_by: found` asks for less; a negative margin asks
    for "no worse"). Limits have: calibration error; the AUC of the worst segment or date that has `min_segment_purchases`; how far the
    AUC of the worst such date lies below their mean, and that of the worst such of `time_folds` fits on earlier dates, of about
    `fold_rows` rows, below theirs; the AUC of a single feature on the training slice; the share of the training rows whose label a single
    feature decides; and the rows a second that one core scored when the model was trained (null: none).
    `refused`: what evaluate does when it does not promote the challenger, once the report is written: `report` and succeed, or `fail`.
    """

    bootstrap_rounds: Positive = 200
    bins: Positive = 2000
    shap_rows: Positive = 2000
    new_user_days: Positive = 30
    seed: Count = 11
    auc_margin_over_baseline: float = 0.0
    auc_margin_over_champion: float = 0.0
    champion_margin_by: Literal["lower_bound", "found"] = "lower_bound"
    max_calibration_error: Share = 0.05
    min_segment_auc: Share = 0.5
    min_segment_purchases: Positive = 50
    max_auc_drop: Share = 0.1
    time_folds: Annotated[int, Field(ge=0, le=10)] = 3
    fold_rows: Annotated[int, Field(ge=1000, le=500_000)] = 50_000
    max_feature_auc: Share = 0.95
    max_decided_share: Share = 0.5
    min_score_rows_per_second: Positive | None = None
    top_k: tuple[Positive, ...] = (1, 5, 10)
    refused: Literal["report", "fail"] = "report"


class ScoreSettings(Section):
    """Segment limits, decision threshold (null: chosen with the model on the calibration slice, by `threshold_by`), eligibility lists.

    `threshold_by`: the best F1, Youden's J or profit, or as many contacts as the budget allows. `conversion_value` is earned with each
    purchase and `contact_cost` spent on each candidate contacted, in the data set's currency. Of the budget either `budget_share` of the
    candidates or `budget_contacts` a day is set.
    `reasons`: so many features are named with each score, those that moved it most (0: none, and no gold/score_reasons).
    `blocked_users` and `blocked_items` are CSV files with a header `user_id` / `item_id`: never scored, never published.
    """

    high: Share = 0.5
    low: Share = 0.1
    threshold: Share | None = None
    threshold_by: Literal["f1", "youden", "profit", "budget"] = "f1"
    conversion_value: Annotated[float, Field(gt=0.0)] | None = None
    contact_cost: Annotated[float, Field(gt=0.0)] | None = None
    budget_share: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    budget_contacts: Positive | None = None
    reasons: Annotated[int, Field(ge=0, le=20)] = 3
    blocked_users: Location | None = None
    blocked_items: Location | None = None

    @model_validator(mode="after")
    def _ordered(self) -> ScoreSettings:
        if self.low >= self.high:
            raise ValueError(f"score.low ({self.low}) must be below score.high ({self.high})")
        return self

    @model_validator(mode="after")
    def _has_what_decides(self) -> ScoreSettings:
        if (self.conversion_value is None) != (self.contact_cost is None):
            raise ValueError("score.conversion_value and score.contact_cost: expected both or neither")
        if self.threshold_by == "profit" and self.conversion_value is None:
            raise ValueError("score.threshold_by profit: expected score.conversion_value and score.contact_cost, found neither")
        if self.budget_share is not None and self.budget_contacts is not None:
            raise ValueError("score.budget_share and score.budget_contacts: expected one of them, found both")
        if self.threshold_by == "budget" and self.budget_share is None and self.budget_contacts is None:
            raise ValueError("score.threshold_by budget: expected score.budget_share or score.budget_contacts, found neither")
        return self
