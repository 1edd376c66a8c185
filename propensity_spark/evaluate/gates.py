"""May the challenger become the champion? Named conditions, each with what was found and the limit."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from propensity_spark.config import EvaluateSettings
from propensity_spark.evaluate.folds import Fold
from propensity_spark.evaluate.leaks import Alone
from propensity_spark.evaluate.segments import DATE

Estimate = Mapping[str, float | None]


@dataclass(frozen=True)
class Gate:
    """One condition. `low` and `high`: 95% interval of `found`, where there is one."""

    name: str
    passed: bool
    found: float
    limit: float
    low: float | None
    high: float | None
    reason: str


@dataclass(frozen=True)
class Decision:
    """`promoted`: the challenger becomes champion; `already champion`: it is the champion; `kept`: all stays as it was."""

    outcome: str
    challenger: str
    champion_before: str | None
    gates: tuple[Gate, ...]

    @property
    def promotes(self) -> bool:
        return self.outcome == "promoted"

    @property
    def sentence(self) -> str:
        """The decision in words, for the closing table."""
        failed = "; ".join(gate.reason for gate in self.gates if not gate.passed)
        if self.outcome == "already champion":
            return f"version {self.challenger} is already champion" + (f", though today {failed}" if failed else "")
        if self.promotes:
            return f"version {self.challenger} promoted" + ("" if self.champion_before else ", the first champion")
        kept = f"kept version {self.champion_before}" if self.champion_before else "no champion yet"
        return f"{kept}: version {self.challenger} not promoted, {failed}"

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "sentence": self.sentence}


def decide(
    settings: EvaluateSettings,
    *,
    challenger: str,
    champion: str | None,
    over_baseline: Estimate,
    over_champion: Estimate | None,
    calibration_error: Estimate,
    segments: Mapping[str, Mapping[str, Any]] | None = None,
    leaks: Sequence[Alone] = (),
    folds: Sequence[Fold] = (),
    rows_per_second: float | None = None,
    rolled_back: bool = False,
    baseline: str = "the baseline",
) -> Decision:
    """Weigh a challenger (version) against the baseline (in the reasons called `baseline`) and the champion (version, None: none yet).

    `over_baseline`, `over_champion`: paired difference of ROC-AUC on the same rows; it must exceed its margin, over the champion
    with the lower end of its interval where `champion_margin_by` says so. `calibration_error` must not exceed its limit, no
    segment or date (of `segments.segment_numbers`) with purchases enough have an AUC below its own, no such date, and no such one
    of the `folds` of earlier times, one further below the mean of such dates, or of the folds, than `max_auc_drop`, no feature (of
    `leaks.alone`) know or decide more of the label alone than its own; `rows_per_second` of scoring must reach its own. What
    cannot be judged, for want of segments, bins or a limit, is no gate. A challenger that was `rolled_back` as champion is not
    promoted again. A challenger that is the champion is not held against itself, and the answer is `already champion` whatever
    the rest says: a champion is never taken down here.
    """
    gates = [_margin("auc_over_baseline", baseline, over_baseline, settings.auc_margin_over_baseline)]
    if champion is not None and champion != challenger:
        if over_champion is None:
            raise ValueError("a champion must be evaluated on the same rows as the challenger")
        by_low = settings.champion_margin_by == "lower_bound"
        margin = settings.auc_margin_over_champion
        gates.append(_margin("auc_over_champion", f"champion version {champion}", over_champion, margin, by_low=by_low))
    gates.append(_calibrated(calibration_error, settings.max_calibration_error))
    gates += _worst_segment(segments or {}, settings) + _stable(segments or {}, settings)
    gates += _over_folds(folds, settings) + _leaks(leaks, settings) + _fast_enough(rows_per_second, settings)
    if rolled_back:
        gates.append(Gate("rolled_back", False, 1, 0, None, None, f"version {challenger} was champion and was rolled back"))
    outcome = "already champion" if champion == challenger else "promoted" if all(gate.passed for gate in gates) else "kept"
    return Decision(outcome, challenger, champion, tuple(gates))


def _margin(name: str, rival: str, difference: Estimate, margin: float, *, by_low: bool = False) -> Gate:
    found, low, high = _numbers(difference)
    passed = low is not None and low > margin if by_low else found > margin
    sure = low is not None and high is not None and (low > 0 or high < 0)
    certainty = "the lower end decides" if by_low else "the interval excludes 0" if sure else "the interval includes 0"
    verb = "beats" if passed else "does not beat"
    reason = f"AUC {verb} {rival} by more than {margin:g} (found {found:+.4f}{_interval(low, high, '+.4f')}, {certainty})"
    return Gate(name, passed, found, margin, low, high, reason)


def _calibrated(error: Estimate, limit: float) -> Gate:
    found, low, high = _numbers(error)
    passed = found <= limit
    reason = f"calibration error {found:.4f}{_interval(low, high, '.4f')} is {'within' if passed else 'above'} {limit:g}"
    return Gate("calibration_error", passed, found, limit, low, high, reason)


def _judged(segments: Mapping[str, Mapping[str, Any]], settings: EvaluateSettings) -> dict[str, Estimate]:
    """Segment → AUC, worst first, of those with purchases enough."""
    enough = {name: found for name, found in segments.items() if found.get("purchases", 0) >= settings.min_segment_purchases}
    each: dict[str, Estimate] = {name: found["challenger"]["roc_auc"] for name, found in enough.items()}
    return dict(sorted(each.items(), key=lambda one: (_numbers(one[1])[0], one[0])))


def _worst_segment(segments: Mapping[str, Mapping[str, Any]], settings: EvaluateSettings) -> list[Gate]:
    judged = _judged(segments, settings)
    if not judged:
        return []
    worst = next(iter(judged))
    found, low, high = _numbers(judged[worst])
    limit = settings.min_segment_auc
    where = "at or above" if found >= limit else "below"
    reason = f"AUC of the worst of {len(judged)} segments, {worst}, is {found:.4f}{_interval(low, high, '.4f')}, {where} {limit:g}"
    return [Gate("segment_auc", found >= limit, found, limit, low, high, reason)]


def _stable(segments: Mapping[str, Mapping[str, Any]], settings: EvaluateSettings) -> list[Gate]:
    dates = {name: _numbers(auc)[0] for name, auc in _judged(segments, settings).items() if name.startswith(DATE)}
    return _behind("auc_over_dates", dates, "test dates", settings.max_auc_drop)


def _over_folds(folds: Sequence[Fold], settings: EvaluateSettings) -> list[Gate]:
    enough = [fold for fold in folds if fold.purchases >= settings.min_segment_purchases]
    tested = {f"of the fold tested from {fold.test_from}": _numbers(fold.roc_auc)[0] for fold in enough}
    return _behind("auc_over_folds", tested, "folds in time", settings.max_auc_drop)


def _behind(name: str, auc: Mapping[str, float], what: str, limit: float) -> list[Gate]:
    """How far the worst lies below the mean of all; no gate where there are fewer than two."""
    if len(auc) < 2:
        return []
    worst, usual = min(auc, key=lambda one: auc[one]), statistics.fmean(auc.values())
    found = usual - auc[worst]
    passed = found <= limit
    below = f"{found:.4f} below the mean of {len(auc)} {what}"
    reason = f"AUC {worst}, {auc[worst]:.4f}, is {below}, {'within' if passed else 'more than'} {limit:g}"
    return [Gate(name, passed, found, limit, None, None, reason)]


def _leaks(leaks: Sequence[Alone], settings: EvaluateSettings) -> list[Gate]:
    if not leaks:
        return []
    knows, decides = max(leaks, key=lambda one: one.auc), max(leaks, key=lambda one: one.decided_share)
    auc, share = settings.max_feature_auc, settings.max_decided_share
    known = knows.auc <= auc
    reason = (
        f"{knows.feature} alone reaches AUC {knows.auc:.4f} on the training slice, {'within' if known else 'a leak? It is above'} {auc:g}"
    )
    found = [Gate("feature_alone_auc", known, knows.auc, auc, None, None, reason)]
    decided = decides.decided_share <= share
    which = f"{decides.feature} alone" if decides.decided_share else "no feature alone"
    reason = (
        f"{which} decides the label of {decides.decided_share:.1%} of the training rows, "
        f"{'within' if decided else 'a leak? It is above'} {share:.0%}"
    )
    return [*found, Gate("decided_by_feature", decided, decides.decided_share, share, None, None, reason)]


def _fast_enough(rows_per_second: float | None, settings: EvaluateSettings) -> list[Gate]:
    limit = settings.min_score_rows_per_second
    if rows_per_second is None or limit is None:
        return []
    passed = rows_per_second >= limit
    reason = f"one core scores {rows_per_second:,.0f} rows a second, {'at or above' if passed else 'below'} {limit:,}"
    return [Gate("score_rows_per_second", passed, rows_per_second, float(limit), None, None, reason)]


def _numbers(estimate: Estimate) -> tuple[float, float | None, float | None]:
    value = estimate["value"]
    if value is None:
        raise ValueError("a gate needs a metric that is defined on the test rows")
    return value, estimate["low"], estimate["high"]


def _interval(low: float | None, high: float | None, form: str) -> str:
    return f" [{low:{form}}, {high:{form}}]" if low is not None and high is not None else ""
