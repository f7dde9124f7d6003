"""Shardboard over HTTP: pages for a browser, endpoints for programs, and the door that both go through.

`server.py` listens, `application.py` puts the routes together, `gate.py` and `security.py` decide who gets in. What is
answered to clients of OpenAI's API lives in `openai/`.
"""
