"""Other programs and rules to compare with. All are commands but `true_boxes`.

- `baseline`: LiteMedSAM's inference in torch.
- `parity`: how far two folders of outputs agree.
- `official_metrics`: the organisers' metrics.
- `mobile_sam`: MobileSAM on images.
- `trivial`: masks without a network.
- `true_boxes`: the box of the truth in each slice; for `ablation.modes`.
"""
