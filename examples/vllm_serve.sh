#!/bin/sh
# vLLM with weights that are on no disk: its workers stream them from memory that they share.
#
#   sh examples/vllm_serve.sh llama:prod --tensor-parallel-size 2
#
# modelvault must be installed in vLLM's environment too: vLLM finds the load format by itself.
if [ $# -eq 0 ]; then
    echo "usage: sh examples/vllm_serve.sh REFERENCE [OPTIONS OF VLLM]..." >&2
    exit 2
fi
model=$1
shift
exec modelvault run "$model" --purpose inference --stream -- \
    vllm serve {model} --load-format modelvault "$@"
