"""Raw data sets to shards: one reader a source, then build, check, stats and show."""
