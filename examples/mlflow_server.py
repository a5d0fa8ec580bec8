"""A model that MLflow logs into a vault and loads from it.

    modelvault create churn
    mlflow server --default-artifact-root modelvault://churn --no-serve-artifacts &
    export MLFLOW_TRACKING_URI=http://127.0.0.1:5000 MODELVAULT_PURPOSE=inference TMPDIR=/dev/shm
    python examples/mlflow_server.py train           # prints the model's URI
    python examples/mlflow_server.py predict URI

TMPDIR is memory: MLflow writes a model into a temporary folder before it logs it, and again when
it loads it.
"""

import sys
import tempfile
from pathlib import Path

import mlflow
import numpy as np
import safetensors.numpy


class Linear(mlflow.pyfunc.PythonModel):
    """One layer."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        self.layers = safetensors.numpy.load_file(context.artifacts["weights"])

    def predict(self, context, model_input, params=None):  # noqa: ANN001, ANN201, ARG002
        return model_input @ self.layers["w"]


def train() -> None:
    weights = np.random.default_rng(7).standard_normal((64, 64)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run():
        file = Path(folder, "weights.safetensors")
        safetensors.numpy.save_file({"w": weights}, file)
        logged = mlflow.pyfunc.log_model(
            name="linear",
            python_model=__file__,  # the code as it is here, so nothing is pickled
            artifacts={"weights": str(file)},
            pip_requirements=["numpy", "safetensors"],
        )
        mlflow.log_text("trained on nothing", "notes/readme.txt")
    print(logged.model_uri)


def predict(uri: str) -> None:
    model = mlflow.pyfunc.load_model(uri)
    print(f"{float(model.predict(np.ones((1, 64), np.float32)).sum()):.4f}")


mlflow.models.set_model(Linear())

if __name__ == "__main__":
    match sys.argv[1:]:
        case ["train"]:
            train()
        case ["predict", uri]:
            predict(uri)
        case _:
            print("usage: mlflow_server.py train | predict URI", file=sys.stderr)
            sys.exit(2)
