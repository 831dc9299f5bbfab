"""One run, from a spec to its record. Start reading at `lifecycle`.

lifecycle    the steps of a run, and the records of runs that fail
prepare      resolves a spec to a job, or refuses it, before anything is written
identity     what a record contains before training starts: content hash and board fields
start        builds the training of a job
outcome      folds, audits and evaluates the trained network, and builds the record
rescue       saves a finished run elsewhere if its folder can no longer be written
audit        counts zeros, and compares the count with the budget
ablation     the two ablations of the supermask track
listeners    observers of a run: metrics, log and event files
"""
