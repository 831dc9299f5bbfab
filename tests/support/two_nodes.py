"""A Ray cluster of two nodes on this machine: `python two_nodes.py FOLDER` prints its address once it is up.

Each node takes one run at a time, and keeps temporary files in a folder of its own, `FOLDER/head` and `FOLDER/other`.
With a second argument the second node has that `PYTHONPATH`, and so perhaps another pruneboard.
`kill` on standard input ends the second node at once, as a power failure would; the end of the input ends both.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# As `srun` describes one of two tasks: it must not be taken for one of two processes of a run.
SRUN = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_NODELIST": "node1", "SLURM_JOB_ID": "7"}
STORE_BYTES = 100 * 2**20


def _main(folder: Path, path: str = os.environ.get("PYTHONPATH", "")) -> None:
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(folder / "ray")}
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    nodes = {}
    for name, more in (("head", {"include_dashboard": False}), ("other", {})):
        place = folder / name
        place.mkdir()
        variables = {"TMPDIR": str(place)} | (SRUN | {"PYTHONPATH": path} if name == "other" else {})
        nodes[name] = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES, env_vars=variables, **more)
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            cluster.remove_node(nodes["other"], allow_graceful=False)
            print("killed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    _main(Path(sys.argv[1]), *sys.argv[2:])
