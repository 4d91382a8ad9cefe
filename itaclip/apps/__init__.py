"""For people: the command line, folders and videos, collections, the web page and HTTP API, Transformers' pipeline."""
