"""Networks that turn clips into features, all behind `extractor.Extractor`; by name in `named`."""
