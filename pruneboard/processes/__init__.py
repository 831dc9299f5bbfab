"""The processes of a run: how they start, meet, communicate, are interrupted, and end.

world           this process's rank, and the number of processes
child           a process that this one starts, with a pipe to it
launch          a run in this process, or in several on this machine
rendezvous      how processes meet, exchange values, and learn why another one failed
failures        the reason why a process ended, in the form in which it is sent
phases          what this process is doing, for the display
interrupts      SIGTERM and SIGINT: finish the step, save, then stop
output          standard output and standard error that never raise
guardian        a command in a process of its own, watched by another one that records its loss
process_exit    how a process that used DeepSpeed exits, and how a method is kept from exiting
own_threads     counts threads without those of the harness
memory          how glibc returns freed memory, and the peak memory of a run
"""
