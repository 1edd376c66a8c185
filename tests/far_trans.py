"""A handful of rows in the form of the real data set far_trans, each a case of its own, and a thinned copy of the real one."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

ACQUISITIONS = """customerID,ISIN,after_date_inclusive,before_date
early,old,,2019-08-01
early,moved,2020-02-07,2020-02-20
early,twice,2020-02-20,2020-03-04
nobody,old,2020-02-07,2020-02-20
placeholder,old,2020-02-20,2020-03-04
later,old,2020-02-07,2020-02-20
"""
CUSTOMERS = """customerID,customerType,riskLevel,investmentCapacity,lastQuestionnaireDate,timestamp
early,Mass,Income,CAP_LT30K,2015-04-27,2018-01-02
early,Premium,Predicted_Aggressive,CAP_LT30K,2021-05-05,2020-02-20
nobody,Mass,Not_Available,Not_Available,2000-01-01,2018-01-02
placeholder,Mass,Predicted_Balanced,Predicted_CAP_LT30K,2000-01-01,2000-01-01
later,Mass,Balanced,CAP_LT30K,2021-11-03,2021-11-03
"""
ASSETS = """ISIN,assetName,assetShortName,assetCategory,assetSubCategory,marketID,sector,industry,timestamp
old,Old,O,Stock,,XATH,Technology,Software,2018-01-02
moved,Moved,M,Stock,,XNYS,Energy,Oil,2018-01-02
moved,Moved,M,Stock,,XNGS,Utilities,Oil,2020-02-20
twice,Twice,T,MTF,Bond,XLON,,,2018-01-02
twice,Twice,T,Stock,,XLON,,High Yield,2018-01-02
fund,,F,MTF,Equity,AEDAK,,,2020-02-20
future,Future,F,MTF,Equity,AEDAK,,,2021-06-01
"""
FILES = {"acquisitions_until_2020-12-31": ACQUISITIONS, "customer_information": CUSTOMERS, "asset_information": ASSETS}


def write_few(data: Path) -> None:
    """The rows above, as `<data>/far_trans`."""
    for name, text in FILES.items():
        _write(data, name, text)


def write_thinned(source: Path, data: Path, is_kept: Callable[[str], bool]) -> None:
    """The real rows of the customers that are kept, and every asset."""
    for name in FILES:
        header, *lines = gzip.decompress((source / "far_trans" / f"{name}.csv.gz").read_bytes()).decode("utf-8").splitlines()
        kept = [line for line in lines if name.startswith("asset") or is_kept(line.partition(",")[0])]
        _write(data, name, "\n".join([header, *kept]) + "\n")


def _write(data: Path, name: str, text: str) -> None:
    folder = data / "far_trans"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.csv.gz").write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))
