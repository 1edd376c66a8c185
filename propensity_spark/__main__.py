"""`python -m propensity_spark`: the same as `propensity`."""

import sys

from propensity_spark.cli import main

if __name__ == "__main__":
    sys.exit(main())
