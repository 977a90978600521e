"""Masks and shifted splits of any data set: carried along, checked, and part of the fingerprint."""

import pytest
import torch
from published import pixels

from sparring.domains.image import DataError, Images, Splits, assemble, load
from sparring.domains.image.source import fingerprint


def toy(n=8, shape=(3, 5, 4), masks=None, seed=0):
    return Images(torch.from_numpy(pixels(n, *shape, seed=seed)), torch.arange(n) % 3, masks)


def test_masks_go_where_their_images_go():
    masks = torch.from_numpy(pixels(8, 5, 4, seed=9)) > 128
    source, rows = toy(masks=masks), torch.tensor([6, 1, 1])
    assert torch.equal(source.masks_of(rows), masks[rows])
    part = source.to("cpu").subset(rows)
    assert torch.equal(part.masks, masks[rows])
    assert torch.equal(part.masks_of(torch.tensor([2])), masks[[1]])
    x, y = source.take(rows)
    assert torch.equal(x, toy().take(rows)[0])
    assert y.tolist() == [0, 1, 1]
    assert toy().subset(rows).masks is toy().to("cpu").masks is None
    assert source.to("meta").masks.device.type == "meta"


def test_masks_of_another_shape_or_dtype_are_refused():
    with pytest.raises(
        DataError, match=r"toy train: masks must be bool of shape \[8, 5, 4\]. Got torch.bool of \[8, 4"
    ):
        assemble("toy", Splits(toy(masks=torch.zeros(8, 4, 5, dtype=torch.bool)), toy()))
    with pytest.raises(DataError, match=r"toy test: masks must be bool of shape \[8, 5, 4\]. Got torch.uint8"):
        assemble("toy", Splits(toy(), toy(masks=torch.zeros(8, 5, 4, dtype=torch.uint8))))


def test_shifted_splits_are_checked_and_handed_on():
    dusk = toy(5, seed=3)
    data = assemble("toy", Splits(toy(), toy(6), shifted={"dusk": dusk}))
    assert data.shifted["dusk"] is dusk
    assert assemble("toy", Splits(toy(), toy(6))).shifted == {}
    with pytest.raises(DataError, match=r"toy dusk: labels must be in the range \[0, 3\). Got 3 in row 3"):
        assemble("toy", Splits(toy(), toy(), shifted={"dusk": Images(toy().x, torch.arange(8))}))
    with pytest.raises(DataError, match=r"toy: dusk images must have the train images' shape \(3, 5, 4\). Got \(1, 5"):
        assemble("toy", Splits(toy(), toy(), shifted={"dusk": toy(shape=(1, 5, 4))}))


def test_the_fingerprint_covers_masks_and_shifted_splits_and_is_unchanged_without():
    plain = assemble("toy", Splits(toy(), toy(6))).fingerprint
    masks = torch.zeros(8, 5, 4, dtype=torch.bool)
    assert plain == fingerprint(toy(), toy(6)) == assemble("toy", Splits(toy(), toy(6), shifted={})).fingerprint
    others = [
        Splits(toy(masks=masks), toy(6)),
        Splits(toy(masks=~masks), toy(6)),
        Splits(toy(), toy(6), shifted={"dusk": toy(5)}),
        Splits(toy(), toy(6), shifted={"dusk": toy(5, seed=1)}),
    ]
    assert len({plain, *(assemble("toy", found).fingerprint for found in others)}) == 5
    assert load("digits").fingerprint == "4cc81ec3679e3e0e1015c33f6a91a6d8e928973e51fb861d22fdf7d62fffee66"  # as ever
