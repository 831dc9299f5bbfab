"""Training, identical for every method. Start reading at `loop`.

setup             builds the gates, the engine and the data plan of a run
state             the step budget, and everything that the loop reads and updates
loop              the training loop: search, hardening and fine-tuning
engine            the only module that imports DeepSpeed
gates             attaches gates to weights, and folds them into plain weights
optim             one optimizer with a rule per parameter group, and the learning-rate schedule
scoring           model view, images and dense gradients for the specialized pruner base classes
evaluate          top-1, top-5, loss, and running statistics of batch normalization
mask_stats        mask statistics at the end of an epoch
integrity         finds what a method changes where it may not
process_state     settings, hooks and threads of the process, and how to restore them
harness_guard     finds and undoes replaced functions of the harness
checkpoint        saving and restoring a run
checkpoint_file   the file format of a checkpoint, with checksums
compiling         torch.compile for the training passes
"""
