"""The stage score for spark-submit.

spark-submit jobs/score.py --conf conf/cluster.yml --dataset stocks --as-of 2024-12-31
"""

from propensity_spark.cli import stage_main

if __name__ == "__main__":
    stage_main("score")
