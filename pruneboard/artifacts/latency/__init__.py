"""Time a finished run's network on this machine, dense and sparse, in widely available engines.

measure         load and check the run, build the engines, compare their logits, and time all of them
options         engines, batch sizes, threads and time budget; imports no torch
engines         each engine as a function from images to logits, or the reason why it is not available
sparse_layers   layers that skip zeros: CSR of torch and of scipy, and 2:4
dense_control   the same network with its zeros filled, to see whether an engine gains anything from zeros
timing          time functions in interleaved rounds
document        the result as plain JSON: run, machine, versions, times, and whether zeros pay
report          the document as text with a table
"""
