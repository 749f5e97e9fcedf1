"""Training: one stage after another (pretrain, then fine-tune), its checks, and the folders it leaves."""
