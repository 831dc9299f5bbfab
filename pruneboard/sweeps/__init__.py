"""Whole boards: the plan of a board file, what it will cost, and the runs, here or on many machines.

`plan` -> cells, each a run with its content hash; `conduct` -> what is missing goes to an executor (`workers`:
warm processes of this machine, `cluster`: an existing Ray cluster), the dense control first; `ledger` -> what is
left for `pruneboard status`.
"""
