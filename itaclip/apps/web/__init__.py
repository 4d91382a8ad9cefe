"""What `itaclip serve` serves: an HTTP API (`api`) and a web page (`page`), which is a client of that API.

All requests pass through one queue (`job_queue`) under the same limits. Needs the optional extra ``web``.
"""
