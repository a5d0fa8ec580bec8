"""A sentence encoder in numpy: BERT as all-MiniLM-L6-v2 has it, for one sentence at a time.

It reads its tensors from the decrypted memory of a loaded model and copies none of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
LAYERS, HEADS, EPSILON = 6, 12, 1e-12

_erf = np.frompyfunc(math.erf, 1, 1)


def embed(weights: Mapping[str, Array], tokens: Sequence[int]) -> Array:
    """The unit vector (384 values) of one sentence, by mean pooling over its tokens."""
    ids = np.asarray(tokens)
    words = weights["embeddings.word_embeddings.weight"][ids]
    places = weights["embeddings.position_embeddings.weight"][: len(ids)]
    kind = weights["embeddings.token_type_embeddings.weight"][0]
    states = _normalise(weights, "embeddings.LayerNorm", words + places + kind)
    for layer in range(LAYERS):
        states = _layer(weights, f"encoder.layer.{layer}", states)
    pooled: Array = states.mean(axis=0)
    return pooled / np.float32(np.linalg.norm(pooled))


def cosine(one: Array, other: Array) -> float:
    """The cosine of the angle between two unit vectors."""
    return float(one @ other)


def _layer(weights: Mapping[str, Array], name: str, states: Array) -> Array:
    context = _attend(weights, f"{name}.attention.self", states)
    attended = _dense(weights, f"{name}.attention.output.dense", context)
    states = _normalise(weights, f"{name}.attention.output.LayerNorm", attended + states)
    inner = _gelu(_dense(weights, f"{name}.intermediate.dense", states))
    output = _dense(weights, f"{name}.output.dense", inner)
    return _normalise(weights, f"{name}.output.LayerNorm", output + states)


def _attend(weights: Mapping[str, Array], name: str, states: Array) -> Array:
    length, width = states.shape
    query, key, value = (
        _dense(weights, f"{name}.{part}", states).reshape(length, HEADS, -1).transpose(1, 0, 2)
        for part in ("query", "key", "value")
    )
    scores = query @ key.transpose(0, 2, 1) / np.float32(math.sqrt(width / HEADS))
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares = scores / scores.sum(axis=-1, keepdims=True)
    mixed: Array = (shares @ value).transpose(1, 0, 2).reshape(length, width)
    return mixed


def _dense(weights: Mapping[str, Array], name: str, states: Array) -> Array:
    return states @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _normalise(weights: Mapping[str, Array], name: str, states: Array) -> Array:
    centred = states - states.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(EPSILON))
    normal: Array = centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return normal


def _gelu(states: Array) -> Array:
    erf = _erf(states / np.float32(math.sqrt(2))).astype(np.float32)
    active: Array = states * np.float32(0.5) * (1 + erf)
    return active
