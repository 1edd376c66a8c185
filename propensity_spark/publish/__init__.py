"""Published runs: written so that readers see the old complete run or the new complete run, never a mixture."""

from propensity_spark.publish.manifest import Provenance
from propensity_spark.publish.read import read_published
from propensity_spark.publish.retention import Tidied, rollback, tidy
from propensity_spark.publish.verify import Verified, verify
from propensity_spark.publish.write import Published, publish_scores

__all__ = ["Provenance", "Published", "Tidied", "Verified", "publish_scores", "read_published", "rollback", "tidy", "verify"]
