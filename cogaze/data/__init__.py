"""Shards to Batches: order, positioned reads, decoding, texts, gaze maps, loader."""
