"""raypretrain: pretrain one model on raw text and fine-tune it many times, on Ray and DeepSpeed."""

__version__ = "0.1.0"
