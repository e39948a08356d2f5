"""Object stores: ``s3://``, and with their extras ``gs://`` and ``az://``. :mod:`raypretrain.storage` is the way in."""
