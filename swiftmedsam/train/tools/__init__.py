"""Commands around a training run: means of weights, curves, quick measures, sheets."""
