"""Finding, checking, decoding and streaming image files, for several data sets."""
