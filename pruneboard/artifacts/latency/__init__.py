"""How long a finished run's network takes on this machine, in engines that people have.

measuring   the walk: record, weights against the record, engines, a check of each, and interleaved rounds
asked       what is asked for: engines, batches, threads, a budget; no torch
engines     the engines, each as a function from images to logits, and why one cannot be had
sparse      layers that compute with their zeros left out: CSR of torch and of scipy, 2:4
control     the same network without a zero: what an engine takes that gains nothing from them
timing      rounds in which every function is called in turn, and what they come to
document    what is said of it all, plain JSON: run, machine, versions, times, and whether zeros pay
showing     the document as a table for people
"""
