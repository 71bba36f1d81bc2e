"""The embedded promptable segmenter: nodes of binary partition trees answer prompts as SAM does."""

from __future__ import annotations

from weaksam_cli.propose.region_tree.segmenter import RegionProposals, RegionTreeSegmenter
from weaksam_cli.propose.region_tree.settings import Criterion, Oversegmentation, RegionTreeSettings

__all__ = ["Criterion", "Oversegmentation", "RegionProposals", "RegionTreeSegmenter", "RegionTreeSettings"]
