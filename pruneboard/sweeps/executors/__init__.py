"""Where the runs of a sweep are carried out.

workers        worker processes on this machine
gpu_sharing    how many runs share one GPU
ray_cluster    an existing Ray cluster
ray_client     connecting to that cluster
ray_node       what runs on one of its nodes
"""
