"""A finished run in forms that load where pruneboard is not installed.

making        the walk: record, weights against the record, every form, and all files in place at once
asked         what is asked for: the run, the forms, what they need; no torch
subject       the network, checked as `pruneboard verify` checks it, without measuring scores
description   what a file says of the network: how to build it, how to prepare images, what it scored
tensors       safetensors: the dense network, zeros in place
matrices      CSR: every prunable weight as a sparse matrix; `load_csr` is the script beside it
graph         ONNX: the whole network
guide         README.md of the export
files         whole files or none, and nothing overwritten unasked
"""
