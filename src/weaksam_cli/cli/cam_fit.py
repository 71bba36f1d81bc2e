"""`weaksam cam --fit`: train the network on the dataset, whatever weights the recipe names."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from weaksam_cli.cli.options import CommonOptions
from weaksam_cli.engine.recipes import find_recipe, read_yaml_mapping
from weaksam_cli.errors import UserError

TRAINABLE: Final = ("weaktr", "mctformer")
_WHY_NOT: Final = {
    "lite0": "lite0 fits its head in any case: leave --fit out (fine_tune.epochs trains its backbone)",
    "clip-es": "CLIP-ES is used as it is: leave --fit out",
}


def without_weights(options: CommonOptions, recipe_name: str) -> CommonOptions:
    """The options with the recipe's weights taken away: `--fit` is `--set weights=null`.

    Raises:
        UserError: the recipe's method is not trained so, or weights are given all the same.
    """
    method = str(read_yaml_mapping(find_recipe("cam", recipe_name)).get("method"))
    if method not in TRAINABLE:
        raise UserError(
            f"recipe {recipe_name!r} (method {method}) is not trained this way",
            where="--fit",
            remedy=_WHY_NOT.get(method, "") or f"Give a recipe of one of the methods {', '.join(TRAINABLE)}",
        )
    if any(text.partition("=")[0].strip() == "weights" for text in options.overrides):
        raise UserError(
            "weights are given with --set, and --fit trains them",
            where="--fit",
            remedy="Leave one of them out; the training starts from --set fit.initial=FILE",
        )
    return replace(options, overrides=(*options.overrides, "weights=null"))
