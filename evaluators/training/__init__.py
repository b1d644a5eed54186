"""Fine-tuning compressed detectors, so that they get back what compression cost.

trainer.py       the loop: steps, epochs, checkpoints, what comes out
objective.py     what a detector is trained for; the loss of u-models
classic_objective.py  the loss of classic, anchor-based models
distillation.py  how far a student is from the dense model
images.py        a data set under ultralytics' augmentations
averaging.py     the moving average of the weights, which is kept
validate.py      mAP of a network in training
files.py         a trained network as a file
fresh.py         the same shapes with fresh weights
method.py        what a training-time method may do, and when

Training-time methods, one module each:

lsq.py           few bits: learned steps, straight through
drgs.py          few bits: weights rounded the way they last moved, gradients scaled
nipq.py          few bits: noise in place of rounding, widths learned under a budget
gap.py           every layer learns the dense one's outputs: global AdaPrune, no labels
zeros.py         a sparse layer keeps its zeros
surgery.py       sparsity step by step, removed weights may come back
gradual.py       channels go step by step
slimming.py      batch-norm scales pulled to zero, to be pruned by
"""
