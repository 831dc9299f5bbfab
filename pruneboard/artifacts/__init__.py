"""Commands that work on finished runs.

finished_run     a finished run's record and verified network: the input of an export or a latency measurement
choices          the names that `--format` and `--engine` accept, and the optional packages they need
verification/    check records, masks, weights and scores
exporting/       write the network in formats that load without pruneboard
latency/         time the network on this machine
"""
