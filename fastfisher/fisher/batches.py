"""How Fishers of layered models read a batch: pairs (A, E), with the checks of `Fisher.update`."""

from ..errors import InputError
from ..ops.layers import as_layers, scan_layers

__all__ = ["OfLayers"]


class OfLayers:
    """Mixin: batches are sequences of pairs (A, E). ``widths`` holds (d_in, d_out) per layer."""

    _operand = "layers"
    widths = None  # not known before the first batch

    def _as_batch(self, layers):
        batch = as_layers(layers)
        came = [size[1:] for size in batch.sizes]
        if self.widths is not None and len(came) != len(self.widths):
            raise InputError(f"{len(came)} layers came but this Fisher has {len(self.widths)}")
        for index, expected in enumerate(self.widths or ()):
            if came[index] != expected:
                raise InputError(
                    f"layers[{index}] has (d_in, d_out) = {came[index]}; this Fisher has {expected}"
                )
        return batch

    def _scan(self, batch):
        bad, tops = scan_layers(batch)
        bounds = [t * a * e for (t, _, _), (a, e) in zip(batch.sizes, tops, strict=True)]
        return bad, max(bounds)
