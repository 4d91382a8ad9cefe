"""The web page of `itaclip serve`: a form, its answer, and the server around them.

The page (`itaclip.web.page`) and the server need gradio, an optional extra.
"""
