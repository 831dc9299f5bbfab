"""What is made from a finished run.

verification/    whether a record is what its run produced
exporting/       the network in formats that load without pruneboard
latency/         how long the network takes on this machine
"""
