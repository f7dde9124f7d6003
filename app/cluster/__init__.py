"""The nodes as the controller knows them: links to agents, health, launching, joining, sending weights.

Everything here runs on the controller's one asyncio loop.
"""
