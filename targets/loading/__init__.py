"""The training recipe, preprocessing, model files and factories that several targets share."""
