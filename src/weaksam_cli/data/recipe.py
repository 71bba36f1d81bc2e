"""What can be said about how a dataset is read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from weaksam_cli.engine.recipes import RecipeModel

Role = Literal["train", "test"]


class ReadRecipe(RecipeModel):
    """What all layouts share.

    Attributes:
        splits: split -> role; null reads what the dataset offers.
        difficult: whether objects marked difficult (COCO: crowds) give their class to the labels of the image.
        classes: the allowed classes in their order; null takes them from the dataset.
        max_pixels: larger images are listed as failed.
    """

    splits: dict[str, Role] | None = None
    difficult: Literal["exclude", "include"] = "exclude"
    classes: tuple[str, ...] | None = None
    max_pixels: int = Field(default=100_000_000, gt=0)


class VocRecipe(ReadRecipe):
    """A folder with JPEGImages, Annotations and ImageSets.

    Attributes:
        year: release below a VOCdevkit that holds several.
        task: which folder of ImageSets names the splits.
    """

    method: Literal["voc"] = "voc"
    year: str | None = None
    task: Literal["Main", "Segmentation"] = "Main"


class CocoRecipe(ReadRecipe):
    """COCO instances json.

    Attributes:
        subset: only the images with these file names, stems or ids.
    """

    method: Literal["coco"] = "coco"
    subset: tuple[str, ...] | None = None


class FolderRecipe(ReadRecipe):
    """A folder a class, or a CSV `image,label;label`.

    Attributes:
        test_share: share of the images put into a split `test` by a hash of their key.
    """

    method: Literal["folder"] = "folder"
    test_share: float = Field(default=0.0, ge=0, lt=1)


class DemoRecipe(RecipeModel):
    """Images made by the program; deterministic from `--seed`.

    Attributes:
        trainval, test: how many images.
        difficult: as for VOC.
    """

    method: Literal["demo"] = "demo"
    trainval: int = Field(default=120, ge=1)
    test: int = Field(default=60, ge=0)
    difficult: Literal["exclude", "include"] = "exclude"


DataRecipe = VocRecipe | CocoRecipe | FolderRecipe | DemoRecipe
