"""The policies that modelvault ships."""
