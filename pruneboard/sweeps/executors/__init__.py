"""Executors of a sweep: where its runs are executed.

workers        worker processes on this machine
gpu_sharing    worker processes that share one GPU
ray_cluster    an existing Ray cluster
ray_client     connection to that cluster
ray_node       execution of a run on one of its nodes
"""
