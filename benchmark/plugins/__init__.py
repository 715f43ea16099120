"""The plugin base class, and how plugins are found, imported, fingerprinted and trusted."""
