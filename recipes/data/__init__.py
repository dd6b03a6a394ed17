"""Data sets, by what they hold: `labels` of whole images, `boxes` around objects, `masks` of each pixel."""
