"""Names and colours of the classes of labelled sets, in the order of their label values.

Axis: K classes, 0 is the background. Colours are this project's own; they only paint labels.
"""

import numpy as np

IGNORED = 255          # label of pixels that do not count

# MSRS shows pictures of MFNet and has its classes. PST900 in the order of the set's own toolkit; published code that
# calls 1 a drill and 3 an extinguisher has the two the other way round.
_MFNET = ("background", "car", "person", "bike", "curve", "car stop", "guardrail", "color cone", "bump")
CLASSES: dict[str, tuple[str, ...]] = {
    "mfnet": _MFNET, "msrs": _MFNET,
    "fmb": ("background", "road", "sidewalk", "building", "lamp", "sign", "vegetation", "sky", "person", "car", "truck",
            "bus", "motorcycle", "bicycle", "pole"),
    "pst900": ("background", "fire extinguisher", "backpack", "hand drill", "survivor"),
    "cwfid": ("soil", "crop", "weed"),
    "street": ("background", "person", "car", "bicycle", "smoke", "fire", "bag", "barrier", "bump")}

_COLOURS = {"background": "202020", "car": "4c7cf0", "person": "e8452f", "bike": "f0a63a", "bicycle": "f0a63a",
            "curve": "9b7ad6", "car stop": "c9c03c", "guardrail": "7fd0e8", "color cone": "ff8c69", "bump": "b08968",
            "road": "6b6b76", "sidewalk": "a48fb0", "building": "8f8577", "lamp": "ffe066", "sign": "d64fa1",
            "vegetation": "4f9d4a", "sky": "9cc8f5", "truck": "2f5597", "bus": "17b0a6", "motorcycle": "c46210",
            "pole": "d9d9d9", "fire extinguisher": "e03131", "backpack": "38b000", "hand drill": "ffd43b",
            "survivor": "f783ac", "soil": "7a5c40", "crop": "3fa34d", "weed": "e8452f", "smoke": "c3c8d4",
            "fire": "ffb000", "bag": "d64fa1", "barrier": "ffe066"}
PALETTE: dict[str, np.ndarray] = {
    name: np.array([list(bytes.fromhex(_COLOURS[one])) for one in names], np.uint8) for name, names in CLASSES.items()}


def painted(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Colours uint8 (H, W, 3) of a label picture (H, W); pixels that are ignored are white.

    palette: uint8 (K, 3). Raises ValueError for a label outside 0 to K - 1 that is not 255.

    >>> painted(np.array([[1, 255]]), PALETTE["cwfid"]).tolist()
    [[[63, 163, 77], [255, 255, 255]]]
    """
    label = np.asarray(label)
    outside = np.unique(label[((label < 0) | (label >= len(palette))) & (label != IGNORED)])
    if outside.size:
        raise ValueError(f"labels {', '.join(map(str, outside[:10]))} have no colour, expected 0 to {len(palette) - 1}")
    table = np.full((IGNORED + 1, 3), 255, np.uint8)
    table[:len(palette)] = palette
    return table[label]                                   # (H, W, 3)
