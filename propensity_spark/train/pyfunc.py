"""What MLflow loads when somebody serves a registered model: a frame of features in, calibrated probabilities out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from propensity_spark.predictor import read


class CalibratedBooster(PythonModel):  # type: ignore[misc]
    """Predicts with the very code that the score stage uses."""

    def load_context(self, context: PythonModelContext) -> None:
        self.model = read(Path(context.artifacts["model"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> npt.NDArray[np.float64]:
        return self.model.predict(model_input[list(self.model.features)].to_numpy(dtype=np.float32))


set_model(CalibratedBooster())
