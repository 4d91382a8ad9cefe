"""What `itaclip serve` serves: a page with a form (`page`, `server`) and an HTTP API (`api`, `alone`).

Both pass images through one line (`line`) under the same limits. The page needs gradio, the API
fastapi, uvicorn, python-multipart and prometheus-client: optional extras.
"""
