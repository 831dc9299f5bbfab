"""Records of runs, and the results folders they are stored in. Imports no torch.

schema        the fields of a record, validation, and the content hash
store         reading and writing records below a results folder
runfolder     the folder of one run: lock, attempts, checkpoints, metrics
mask_file     `mask.npz`: masks with one bit per position
provenance    versions, commit, code digests and hardware of a run
verdicts      `verified.json`, the results of `pruneboard verify`
merging/      merging several results folders into one
"""
