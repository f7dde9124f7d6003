"""The Chat screen: conversations with models, their transcripts, and the answers under way."""
