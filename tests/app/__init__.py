"""The app in a browser, against the whole local stack: examples/web and tools/app."""
