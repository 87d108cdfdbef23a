"""Ray actors as ranks: `pip install ray numpy && python examples/ray_all_reduce.py`.

Rank 0's actor makes the id, which Ray hands to the others. Workers of Ray Train's ``TorchTrainer`` need none of this: they
have torchrun's variables, so ``roundel.Communicator.from_env()`` finds the others there.
"""

import numpy as np
import ray

import roundel

WORLD = 4


@ray.remote(num_cpus=0)
class Rank:
    def make_id(self) -> bytes:
        return bytes(roundel.UniqueId())

    def join(self, id: bytes, rank: int) -> None:
        self.comm = roundel.Communicator.init(roundel.UniqueId(id), rank, WORLD)

    def sum_of_ranks(self) -> float:
        gradients = np.full(1 << 20, self.comm.rank, dtype=np.float32)
        self.comm.all_reduce(gradients, gradients)
        return float(gradients[-1])


ray.init(include_dashboard=False)
ranks = [Rank.remote() for _ in range(WORLD)]
id = ray.get(ranks[0].make_id.remote())
ray.get([rank.join.remote(id, number) for number, rank in enumerate(ranks)])
print(ray.get([rank.sum_of_ranks.remote() for rank in ranks]))  # [6.0, 6.0, 6.0, 6.0]
