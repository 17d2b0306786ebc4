"""Installs lwm: `pip install -e . -c launch/constraints.txt`.

The constraints are the versions that its figures were measured with; here stand the oldest that may work.
"""

from pathlib import Path

from setuptools import find_packages, setup

CORE = [
    "absl-py>=2.1",
    "array-record>=0.8.3",
    "av>=14.0",
    "einops>=0.8",
    "etils[epath]>=1.12",
    "flax>=0.12.2",
    "gguf>=0.19.0",
    "grain>=0.2.15",
    "importlib_resources>=6.0",  # tensorflow-datasets needs it and does not ask for it
    "jax>=0.10.0",
    "jinja2>=3.1",
    "matplotlib>=3.9",
    "ml_collections>=1.0",
    "numpy>=2.0",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.12.0",
    "pillow>=11.0",
    "rich>=13.0",
    "scipy>=1.13",
    "sentencepiece>=0.2.0",
    "tensorflow-datasets>=4.9.9",
    "tokenizers>=0.22.0",
]

EXTRAS = {
    # lwm.data.workers; asks for other versions than launch/constraints.txt
    "beam": ["apache-beam>=2.77", "psutil>=5.9"],
    # Pinned: lwm.compile reads what this compiler writes, and a newer libtpu fails to print its modules.
    "tpu": ["jax[tpu]==0.10.2", "libtpu==0.0.42.1"],
    "test": [
        "hypothesis>=6.100",
        "ipykernel>=6.29",  # with nbclient: runs the notebooks
        "nbclient>=0.10",
        "pytest>=8.0",
        "pytest-xdist>=3.5",
        "ruff>=0.9",
        "sacrebleu>=2.4",
    ],
    "interop": ["safetensors>=0.5", "torch>=2.5", "transformers>=4.48"],  # tests compare with them
    "notebooks": ["jupyterlab>=4.0", "nbclient>=0.10"],
    "scoreboard": ["ringattention==0.1.2"],
    "tensorboard": ["tensorboard>=2.21"],  # lwm.train --boards=tensorboard
    "wandb": ["wandb>=0.31"],  # lwm.train --boards=wandb
    "scores": ["sacrebleu>=2.4"],  # of translations, imported where they are scored
    "benchmarks": ["torch>=2.5", "transformers>=4.48"],
}

setup(
    name="lwm",
    version="0.1.0",
    description="World models on million-length video and language, in JAX.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["lwm", "lwm.*"]),
    package_data={"lwm.evaluation": ["*.jinja"]},
    install_requires=CORE,
    extras_require=EXTRAS,
)
