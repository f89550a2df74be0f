"""The built-in corpus: drawn scenes, captions from a grammar, a simulated crowd, and a detector of what is drawn."""
