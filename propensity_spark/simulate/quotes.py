"""What the local feed answers: the simulated market in the words of the Massive (formerly Polygon.io) API."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from propensity_spark.calendars import exchange_zone, session_times
from propensity_spark.simulate.market import Market
from propensity_spark.simulate.minutes import minute_bars

_PRICES = (("o", "open"), ("h", "high"), ("l", "low"), ("c", "close"), ("vw", "vwap"))


class Refused(Exception):
    """An answer other than 200: its status code and the text of the error body."""

    def __init__(self, status: int, text: str, retry_after: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True)
class Quotes:
    """What the server knows: the market and the last date it serves. `seed` decides the minute bars."""

    market: Market
    seed: int
    as_of: date

    @property
    def _last(self) -> int:
        return self.market.session_on_or_before(self.as_of)

    def bars(self, ticker: str, timespan: str, first: str, last: str, adjusted: bool) -> list[dict[str, Any]]:
        """Ascending bars whose start lies in [first, last] (dates of the exchange, or milliseconds); none for an unknown ticker."""
        lower, upper = self._instant(first), self._instant(last, end_of_day=True)
        found = np.flatnonzero(self.market.item_ids == ticker)
        if not len(found):
            return []
        item = int(found[0])
        window = [
            session
            for session in np.flatnonzero(self.market.traded[: self._last + 1, item])
            if lower - 86_400_000 < self._midnight(session) <= upper
        ]
        make = self._daily if timespan == "day" else self._minutes
        return [bar for session in window for bar in make(int(session), item, adjusted) if lower <= bar["t"] <= upper]

    def grouped(self, day: date, adjusted: bool) -> list[dict[str, Any]]:
        """One bar per item that traded on `day`; `t` is the end of the session's day, 16:00 at the exchange."""
        session = self.market.session_on_or_before(day)
        if session < 0 or session > self._last or self.market.dates[session] != np.datetime64(day):
            return []
        end = int(datetime(day.year, day.month, day.day, 16, tzinfo=self._zone).timestamp() * 1000)
        items = np.flatnonzero(self.market.traded[session])
        return [{"T": str(self.market.item_ids[i]), **self._daily(session, int(i), adjusted)[0], "t": end} for i in items]

    def tickers(self, day: date | None = None) -> list[dict[str, Any]]:
        """The items listed by `day` (default and at most: the as-of date), by ticker."""
        day = min(day or self.as_of, self.as_of)
        session = self.market.session_on_or_before(day)
        names = sorted((str(self.market.item_ids[i]), i) for i in np.flatnonzero(self.market.listed <= session))
        return [
            {
                "ticker": ticker,
                "name": f"{ticker} {self.market.sectors[i]} Corp",
                "market": "stocks",
                "locale": "us",
                "primary_exchange": str(self.market.calendar),
                "type": "CS",
                "active": True,
                "currency_name": "usd",
                "list_date": str(self.market.dates[self.market.listed[i]]),
                "last_updated_utc": f"{day}T00:00:00Z",
            }
            for ticker, i in names
        ]

    def splits(self) -> list[dict[str, Any]]:
        """The splits up to the as-of date, by execution date; a reverse split has the greater number in `split_from`."""
        rows = []
        for session, item, ratio in zip(self.market.split_session, self.market.split_item, self.market.split_ratio, strict=True):
            if session <= self._last:
                ticker, day = str(self.market.item_ids[item]), str(self.market.dates[session])
                old, new = (1.0, float(ratio)) if ratio >= 1 else (float(round(1 / ratio)), 1.0)
                rows.append({"id": f"E{ticker}{day}", "execution_date": day, "ticker": ticker, "split_from": old, "split_to": new})
        return sorted(rows, key=lambda row: (row["execution_date"], row["ticker"]))

    @property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(exchange_zone(str(self.market.calendar)))

    def _instant(self, text: str, end_of_day: bool = False) -> int:
        """Milliseconds of a date (its first or last millisecond at the exchange) or of a millisecond text."""
        if re.fullmatch(r"\d{9,15}", text):
            return int(text)
        day = read_date(text) + timedelta(days=1 if end_of_day else 0)
        return int(datetime(day.year, day.month, day.day, tzinfo=self._zone).timestamp() * 1000) - (1 if end_of_day else 0)

    def _midnight(self, session: int) -> int:
        return self._instant(str(self.market.dates[session]))

    def _share(self, session: int, item: int, adjusted: bool) -> float:
        """What a reported price is divided by: 1, or the ratios of the later splits that this feed knows of."""
        known = self.market.split_factor[self._last, item] if adjusted else self.market.split_factor[session, item]
        return float(self.market.split_factor[session, item] / known)

    def _daily(self, session: int, item: int, adjusted: bool) -> list[dict[str, Any]]:
        share = self._share(session, item, adjusted)
        bar = {letter: round(float(getattr(self.market, name)[session, item]) / share, 6) for letter, name in _PRICES}
        volume, trades = self.market.volume[session, item], self.market.trade_count[session, item]
        return [{"v": float(volume * share), **bar, "t": self._midnight(session), "n": int(trades)}]

    def _minutes(self, session: int, item: int, adjusted: bool) -> list[dict[str, Any]]:
        day = self.market.dates[session].item()
        ((_, opens, closes),) = session_times(str(self.market.calendar), day, day)
        count = int((closes - opens).total_seconds() // 60)
        made = minute_bars(self.market, self.seed, session, item, count)
        share, first = self._share(session, item, adjusted), int(opens.timestamp() * 1000)
        return [
            {
                "v": float(made["volume"][k] * share),
                **{letter: round(float(made[name][k]) / share, 6) for letter, name in _PRICES},
                "t": first + 60_000 * k,
                "n": int(made["trade_count"][k]),
            }
            for k in range(count)
            if made["volume"][k] > 0
        ]


def read_date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise Refused(400, f"could not parse the date {text!r}; expected YYYY-MM-DD or a millisecond timestamp") from error
