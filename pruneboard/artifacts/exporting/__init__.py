"""Export the network of a finished run in formats that load without pruneboard.

export              write a run in several formats: each file is read back and compared, then all appear at once
options             the formats, and the packages they need; imports no torch
description         the JSON description in every export: how to build the network and prepare images, and its scores
safetensors_file    `model.safetensors`: the dense network, zeros included
csr_files           `model.csr.npz`: every prunable weight as a sparse matrix; `load_csr` is the script next to it
onnx_file           `model.onnx`: the whole network
readme              `README.md` of the export
staging             write files to a temporary folder, then move all of them to their place
"""
