"""The processes of a run: how they start, meet, agree, are interrupted, and end.

world           this process's rank, and how many processes there are
launch          one process in place, or several on this machine
rendezvous      how processes meet, agree on values, and learn why another one failed
interrupts      SIGTERM and SIGINT: finish the step, save, then stop
process_exit    how a process that used DeepSpeed ends
memory          what glibc does with freed memory, and the peak memory of a run
"""
