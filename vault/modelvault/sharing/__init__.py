"""One lease for many processes of a host: the holder decrypts, the others read what it shares."""
