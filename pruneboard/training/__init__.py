"""Training: identical for every method.

setup         builds the gates, the engine and the data plan of a run
state         the step budget, and everything the loop reads
loop          the training loop, hardening and fine-tuning
engine        the only module that imports DeepSpeed
gates         attaches gates in front of weights, and folds them into plain weights
optim         one optimizer with a rule per parameter group, and the learning-rate schedule
scoring       images, gradients and model view for methods that score weights
evaluate      top-1, top-5, loss, and batch-normalization statistics
mask_stats    what masks look like at the end of an epoch
checkpoint    saving and restoring a run
compiling     torch.compile for the training passes
"""
