"""A stand-in for a Chatwoot installation: its schema, a bulk of invented data, and live traffic.

Nothing here belongs to the product, and nothing here knows it.
"""
