import sys
from propensity_spark.cli import main
sys.exit(main(sys.argv[1:]))
