"""Check whether a record is what its run produced; docs/verify.md describes what each level proves.

verify        check every record below some folders, level by level, and give verdicts
rules         the values of a record that its other values determine
consistency   level 1: a record against those rules, its hash and its log
masks         level 2: the packed masks against the record
weights       level 3: the weights against the record and the masks
network       level 3: the network rebuilt from the record, and its frozen weights drawn again
evaluation    level 4: the scores, measured again

Only `weights`, `network` and `evaluation` import torch. `pruneboard.records.verdicts` has the types of the results,
and writes `verified.json`.
"""
