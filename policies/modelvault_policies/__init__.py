"""The policies that modelvault ships: Rego, data, schemas and decision tables, as package data."""
