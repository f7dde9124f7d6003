"""The controller's half of Shardboard: registry, models, cutting, cluster, requests.

Driven by the window, over HTTP or from the command line.
"""
