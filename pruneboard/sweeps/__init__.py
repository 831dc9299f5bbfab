"""Sweeps: all runs of a board, planned, estimated and executed on this machine or on a Ray cluster.

board_file     what a board consists of, read from TOML
plan           the runs of a board, and which of them are already done
estimate       time and disk space that the missing runs need
scheduler      gives the missing runs to an executor, the dense control first, and retries lost ones
single_run     what an executor does with one run
executors      processes on this machine, or an existing Ray cluster
manifest       the list of a sweep's runs, from which `pruneboard status` reads the progress
"""
