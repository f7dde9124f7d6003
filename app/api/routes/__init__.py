"""The routes, one room of them a file."""

from app.api.routes import system

ROUTERS = (system.router,)
