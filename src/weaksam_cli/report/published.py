"""CorLoc of weakly supervised detectors as WeakSAM's supplement prints it (Table 4); leaderboards show it beside theirs."""

from __future__ import annotations

from typing import Final

CORLOC: Final = {
    "wsddn": "53.5",
    "yang2019": "68.0",
    "c_mil": "65.0",
    "c_midn": "53.5 (sic)",
    "wsod2": "69.5",
    "casd": "70.4",
    "od_wscl": "69.8",
    "cbl": "71.8",
    "wsovod": "77.2",
    "oicr": "60.6",
    "mist": "68.8",
}
"""Method -> percent. C-MIDN's is the same as WSDDN's, probably by mistake."""
CONDITIONS: Final = (
    "published: Table 4 of WeakSAM's supplement, on VOC07 trainval by detectors on VGG16, over Selective Search (wsddn: "
    "EdgeBoxes; wsovod: its own proposals). It compares with no other images, networks or proposals"
)
