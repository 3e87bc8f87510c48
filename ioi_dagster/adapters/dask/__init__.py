"""Dask: governors inside schedulers and workers, and the clients that submit to them."""
