"""Fronts for other people and programs: the HTTP service, the web page, corrections and drift; all on `Predictor`."""
