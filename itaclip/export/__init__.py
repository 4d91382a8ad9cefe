"""A segmentation in the formats of other programs: one module per format, pure functions on arrays.

Users call the methods of `itaclip.Result`; third-party packages are imported when a function needs them.
"""
