"""Random samples that fit a bucket."""

import torch

from fixshape import Bucket


def batch(bucket: Bucket, counts: list[int], classes: int, *, seed: int) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Images of the bucket's own size, with the given numbers of boxes."""
    generator = torch.Generator().manual_seed(seed)
    side = torch.tensor([bucket.width, bucket.height])
    samples = []
    for count in counts:
        corners = torch.rand(count, 2, generator=generator) * side * 0.6
        extents = (0.1 + 0.25 * torch.rand(count, 2, generator=generator)) * side
        target = {
            "boxes": torch.cat((corners, corners + extents), 1),
            "labels": torch.randint(1, classes, (count,), generator=generator),
        }
        samples.append((torch.rand(3, bucket.height, bucket.width, generator=generator), target))
    return samples
