"""The service that alone may unwrap keys."""
