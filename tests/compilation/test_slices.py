"""Two slices of v5e:2x4, by the TPU compiler: rings go through the chips of a slice, sums between both."""

import re

import pytest

CODE = """
import json, os
os.environ["TPU_SKIP_MDS_QUERY"], os.environ["TPU_ACCELERATOR_TYPE"] = "1", "none"
import jax
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec as P
from lwm.parallel.mesh import make_mesh
jax.config.update("jax_platforms", "cpu")
pod = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4", num_slices=2)
mesh = make_mesh(data=2, seq=8, devices=pod.devices)

def step(x):
    neighbour = jax.lax.ppermute(x, "seq", [(index, (index + 1) % 8) for index in range(8)])
    return jax.lax.psum(2 * neighbour, "data")

x = jax.ShapeDtypeStruct((16, 1024), "float32", sharding=NamedSharding(mesh, P("data", "seq")))
whole = jax.shard_map(step, mesh=mesh, in_specs=P("data", "seq"), out_specs=P(None, "seq"))
print(json.dumps(jax.jit(whole).lower(x).compile().as_text()))
"""


@pytest.mark.slow
def test_only_sums_leave_a_slice(on_pod):
    text = on_pod(CODE)
    (pairs,) = re.findall(r"source_target_pairs=\{(.*?)\}\}", text)
    assert {int(chip) for chip in re.findall(r"\d+", pairs)} == set(range(8)), "chips of one slice"
    sent = [line for line in text.splitlines() if re.search(r" send\(", line)]
    assert len(sent) == 1 and '_xla_megascale_reduce_operation="SUM"' in sent[0]
