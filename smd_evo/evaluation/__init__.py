"""Children of one parent on data: fitness of many, predictions of a few, calibrated mutation strengths."""
