"""Training on prepared speech: what is learnt from (pairs, feeds), how (loop, checkpoints), and where (Ray Train)."""
