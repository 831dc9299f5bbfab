"""One run, from a spec to its record. Start reading at `lifecycle`.

lifecycle    the steps of a run, and what becomes of a run that fails
prepare      checks a spec and resolves it to a job, before anything is written
identity     what a record says before training starts: content hash and board fields
start        builds the training of a job
outcome      folds, audits and evaluates the trained network, and writes the record
audit        counts zeros, and checks the count against the budget
ablation     the two ablations of the supermask track
listeners    observers of a run: metrics, log and event files
"""
