"""Jobs: long work that somebody asked for, in the window, over HTTP or by a command. One desk has them all."""
