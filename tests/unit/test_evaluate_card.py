"""The model card says what the report's numbers say, in Markdown and as a page."""

from __future__ import annotations

import re
from pathlib import Path

from propensity_spark.evaluate import card
from tests.unit.test_evaluate_report import estimate, full, minimal


def test_the_card_has_data_metrics_segments_gates_and_limits(tmp_path: Path) -> None:
    written, page = card.write(full(), tmp_path)
    text = written.read_text(encoding="utf-8")
    for line in (
        "# Model card: propensity-retail version 2",
        "| test | 2024-02-02 | 2024-02-23 | 4 | 9 | 1,000 | 100 | 10.00% |",
        r"| gold/training\_set | 1 |",
        "| AUC ahead of recency and popularity (above the limit) | 0.0000 | 0.01 | no |",
        "| user segment: private | 77 | 51 | 0.800 [0.790, 0.810] | 1.300 [1.290, 1.310] | no |",
        "| new | new users: found 0 purchases in 9 rows | | | | |",
        "Calibrated by the beta method: smallest log loss on 2024-01-19.",
        "Decision threshold 20.00%, chosen by profit: precision 0.500 [0.490, 0.510]",
        r"- Read \<this\>.",
    ):
        assert line in text.splitlines() or line in text, line
    assert re.search(
        r"^\| ROC-AUC .* \| 0.7000 \[0.6900, 0.7100\] \| 0.7000 \[0.6900, 0.7100\] \| 0.0000 \[-0.0100, 0.0100\] \|$", text, re.M
    )
    html = page.read_text(encoding="utf-8")
    assert "Read &lt;this&gt;." in html
    assert html.count("<table>") == 6
    assert "<td>Calibration error (mean |purchase rate − probability|, 15 groups; lower is better)</td>" in html
    assert not re.search(r"(src|href)=|url\(|<script|@import", html)


def test_the_smallest_card(tmp_path: Path) -> None:
    text = card.markdown(minimal("challenger", "baseline"))
    assert "not promoted" in text
    assert "set by hand" in text
    assert "\n\n\n\n" not in text


def test_names_from_data_mean_nothing_but_themselves(tmp_path: Path) -> None:
    numbers = minimal("challenger", "baseline")
    found = numbers["evaluation"]["segments"].pop("returning")
    numbers["evaluation"]["segments"]["user_segment: a|b <script>*x*"] = found | {"observed_over_expected": estimate(1.0)}
    _, page = card.write(numbers, tmp_path)
    assert "<td>user segment: a|b &lt;script&gt;*x*</td>" in page.read_text(encoding="utf-8")
