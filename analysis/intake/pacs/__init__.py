"""Fetches studies from a PACS, by DIMSE or DICOMweb, into a folder tree that the inventory reads."""
