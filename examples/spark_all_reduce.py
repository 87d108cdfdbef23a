"""A barrier stage of Spark as a job: `pip install pyspark numpy && python examples/spark_all_reduce.py`."""

import numpy as np
from pyspark.sql import SparkSession

WORLD = 4


def train(rows):
    from roundel import spark

    with spark.from_barrier() as comm:
        gradients = np.full(1 << 20, sum(rows), dtype=np.float32)
        comm.all_reduce(gradients, gradients)
        yield comm.rank, float(gradients[-1])


session = SparkSession.builder.master(f"local[{WORLD}]").config("spark.ui.enabled", False).getOrCreate()
partitions = session.sparkContext.parallelize(range(WORLD), WORLD)
print(partitions.barrier().mapPartitions(train).collect())  # [(0, 6.0), (1, 6.0), (2, 6.0), (3, 6.0)]
session.stop()
