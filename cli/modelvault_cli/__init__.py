"""The command line of modelvault. It knows the library's front only, never its adapters."""
