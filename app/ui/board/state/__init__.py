"""What the board knows and decides: drafts, whose memory is whose, what a drop would mean. Knows no widget."""
