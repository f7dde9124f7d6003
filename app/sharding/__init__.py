"""Inspect, plan, cut: from a model to shards of whole layers."""
