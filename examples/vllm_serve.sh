#!/bin/sh
# vLLM with weights that are on no disk: its workers stream them from memory that they share.
#
#   sh examples/vllm_serve.sh llama:prod --tensor-parallel-size 2
#
# `python` is vLLM's: modelvault must be installed there too, and vLLM finds the load format by
# itself. `vllm serve {model}` is the same, where that program starts.
if [ $# -eq 0 ]; then
    echo "usage: sh examples/vllm_serve.sh REFERENCE [OPTIONS OF VLLM]..." >&2
    exit 2
fi
model=$1
shift
exec modelvault run "$model" --purpose inference --stream -- \
    python -m vllm.entrypoints.openai.api_server --model {model} --load-format modelvault "$@"
