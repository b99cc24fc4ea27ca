"""W ranks give the gradient of one process on the concatenated batch: `python -m tests.equality [--full]`.

A global batch of sixteen one-image pieces is dealt to 1, 2 or 4 ranks, in 1, 2 or 4 micro-batches, under DDP or a ZeRO
stage. For the total loss and each term alone, loss and full gradient are compared with one process that holds all
sixteen. Ranks have images without gaze, without context, without report, one image or several, readings of unequal
length, and images of one study lie on different ranks.
"""
