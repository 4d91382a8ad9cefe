"""What `itaclip serve` serves: an HTTP API (`api`) and a web page (`page`), which is a client of that API.

All requests pass through one queue (`line`) under the same limits. Needs the optional extra ``web``.
"""
