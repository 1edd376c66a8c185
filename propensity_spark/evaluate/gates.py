"""May the challenger become the champion? Named conditions, each with what was found and the limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from propensity_spark.config import EvaluateSettings

Estimate = Mapping[str, float | None]


@dataclass(frozen=True)
class Gate:
    """One condition. `low` and `high`: 95% interval of `found`, where there is one; it informs and does not decide."""

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
) -> Decision:
    """Weigh a challenger (version) against the baseline and the champion (version, None: there is none yet).

    `over_baseline`, `over_champion`: paired difference of ROC-AUC on the same rows; it must exceed its margin.
    `calibration_error` must not exceed its limit. A challenger that is the champion has only the other two to pass, and
    the answer is `already champion` whatever they say: a champion is never taken down here.
    """
    gates = [_margin("auc_over_baseline", "the baseline", over_baseline, settings.auc_margin_over_baseline)]
    if champion is not None and champion != challenger:
        if over_champion is None:
            raise ValueError("a champion must be evaluated on the same rows as the challenger")
        gates.append(_margin("auc_over_champion", f"champion version {champion}", over_champion, settings.auc_margin_over_champion))
    gates.append(_calibrated(calibration_error, settings.max_calibration_error))
    outcome = "already champion" if champion == challenger else "promoted" if all(gate.passed for gate in gates) else "kept"
    return Decision(outcome, challenger, champion, tuple(gates))


def _margin(name: str, rival: str, difference: Estimate, margin: float) -> Gate:
    found, low, high = _numbers(difference)
    passed = found > margin
    sure = low is not None and high is not None and (low > 0 or high < 0)
    certainty = "the interval excludes 0" if sure else "the interval includes 0"
    verb = "beats" if passed else "does not beat"
    reason = f"AUC {verb} {rival} by more than {margin:g} (found {found:+.4f}{_interval(low, high, '+.4f')}, {certainty})"
    return Gate(name, passed, found, margin, low, high, reason)


def _calibrated(error: Estimate, limit: float) -> Gate:
    found, low, high = _numbers(error)
    passed = found <= limit
    reason = f"calibration error {found:.4f}{_interval(low, high, '.4f')} is {'within' if passed else 'above'} {limit:g}"
    return Gate("calibration_error", passed, found, limit, low, high, reason)


def _numbers(estimate: Estimate) -> tuple[float, float | None, float | None]:
    value = estimate["value"]
    if value is None:
        raise ValueError("a gate needs a metric that is defined on the test rows")
    return value, estimate["low"], estimate["high"]


def _interval(low: float | None, high: float | None, form: str) -> str:
    return f" [{low:{form}}, {high:{form}}]" if low is not None and high is not None else ""
