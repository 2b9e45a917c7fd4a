"""Make the batch: samples of any size in, tensors of one planned shape out."""

from fixshape.collate._bucket_index import BucketIndex
from fixshape.collate._bucket_sampler import BucketBatchSampler
from fixshape.collate._coco_sizes import coco_sizes
from fixshape.collate._dataset_sizes import dataset_sizes
from fixshape.collate._hugging_face import PadPixelValues
from fixshape.collate._loader import BucketLoader, make_loader
from fixshape.collate._masks import key_padding_mask, valid_mask
from fixshape.collate._pad import PadToBucket
from fixshape.collate._padding import PaddingCounts, padding_fractions
from fixshape.collate._ragged import pad_ragged
from fixshape.collate._rule import Pad
from fixshape.collate._sequences import PadSequences
from fixshape.collate._size_files import read_sizes

__all__ = [
    "BucketBatchSampler",
    "BucketIndex",
    "BucketLoader",
    "Pad",
    "PadPixelValues",
    "PadSequences",
    "PadToBucket",
    "PaddingCounts",
    "coco_sizes",
    "dataset_sizes",
    "key_padding_mask",
    "make_loader",
    "pad_ragged",
    "padding_fractions",
    "read_sizes",
    "valid_mask",
]
