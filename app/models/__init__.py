"""Where weights come from: folders, the Hub, GGUF files; the library that knows them all."""
