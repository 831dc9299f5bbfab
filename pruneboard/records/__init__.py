"""The evidence: records of runs, and the folders that hold them. Imports no torch.

schema        the fields of a record, validation, and the content hash
store         reading and writing records below a results folder
runfolder     the folder of one run: lock, attempts, checkpoints, metrics
mask_file     masks packed to one bit per position
provenance    versions, commit, code digests and hardware
verdicts      what `pruneboard verify` found, as a file
merging/      several results folders joined into one
"""
