"""A Ray cluster of two nodes on this machine: `python two_nodes.py FOLDER` prints its address when it has started.

Each node executes one run at a time, and has its own folder for temporary files, `FOLDER/head` or `FOLDER/other`.
A second argument is the `PYTHONPATH` of the second node, which may lead to a different pruneboard.
`kill` on standard input kills the second node at once, as a power failure would; the end of the input stops both nodes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Variables of the second of two SLURM tasks. A run must not take them for the description of its own processes.
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
