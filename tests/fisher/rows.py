"""Fishers of layers that take plain scores, so that the laws of all Fishers are theirs as well."""

import numpy as np

import fastfisher as ff


class LayeredRows(ff.LayeredFisher):
    """One layer with one output whose gradient is 1: the inputs are the scores."""

    def update(self, G, *args, **kwargs):
        outputs = np.ones((len(G), 1), np.float16)
        return super().update([(G, outputs)], *args, **kwargs)
