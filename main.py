"""Shardboard's front door: `python main.py …` inside the environment that `./run` made."""

from app.cli import main

if __name__ == "__main__":
    main()
