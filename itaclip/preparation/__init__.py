"""Getting data sets ready: converting their annotations, checking their trees, adding one's own.

Free of torch and MMSegmentation apart from `check`, so that worker processes start at once.
"""
