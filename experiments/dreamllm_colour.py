"""The colour of a picture in a word, read off its pixels: what a question about colours has as its answer."""

import io

import numpy as np
from PIL import Image

COLOURS = ("black", "grey", "white", "red", "orange", "brown", "yellow", "green", "blue", "purple")
_PAPER = 240  # of 255: pixels of which red, green and blue are all brighter are background
# Where red, yellow, green, blue, purple and red again begin on the circle of hues, of 256.
_HUES = np.array([0, 32, 50, 117, 185, 234])
_OF_HUES = ("red", "yellow", "green", "blue", "purple", "red")


def colour_of(png: bytes) -> str:
    """Returns the commonest of COLOURS among the pixels that are not background; "white" if all are."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    rgb, hsv = (np.asarray(one).reshape(-1, 3).astype(int) for one in (image, image.convert("HSV")))
    hue, saturation, value = hsv[rgb.min(axis=1) < _PAPER].T
    names = np.asarray(_OF_HUES)[np.searchsorted(_HUES, hue, side="right") - 1]
    warm = (hue >= 11) & (hue < 32)
    names = np.where(warm, np.where((value > 190) & (saturation > 127), "orange", "brown"), names)
    names = np.where(saturation < 51, np.where(value > 216, "white", "grey"), names)
    names = np.where(value < 51, "black", names)
    counts = [int(np.sum(names == name)) for name in COLOURS]
    return COLOURS[int(np.argmax(counts))] if len(hue) else "white"
