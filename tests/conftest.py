"""Eight virtual CPU devices for every test, and one compilation cache for the run."""

import os
import tempfile

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

# Workers of one pytest run share a cache of compiled programs; it holds nothing from earlier runs.
_RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"pid{os.getpid()}")
jax.config.update("jax_compilation_cache_dir", os.path.join(tempfile.gettempdir(), f"lwm-tests-{_RUN}"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture
def mesh_of():
    """Returns `mesh_of(**axes)`: a mesh on the first devices that the axes need."""
    from lwm.parallel.mesh import make_mesh

    def make(**axes):
        count = 1
        for size in axes.values():
            count *= size
        return make_mesh(**axes, devices=jax.devices()[:count])

    return make
