"""The controller's half of Shardboard: registry, models, cutting, cluster, requests; driven by window, HTTP or command line."""
