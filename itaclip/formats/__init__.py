"""Export segmentations to the formats of other programs: one module per format, pure functions on arrays.

Users call the methods of `itaclip.Result`. Each function imports its third-party package when called.
"""
